"""Look after the transparency logs: how far they are, whether every byte is as it was signed."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.log import proofs, upkeep
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Log
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand, operator


class Command(KasbahCommand):
    """`manage.py auditlog`."""

    help = (
        "Show the transparency logs (status); read them from the first event on and list what is not as it was signed "
        "(check); write their tiles again (tiles); let the signer go on after its memory was lost, once you know that "
        "the database is the right one (trust)."
    )
    epilog = "Example: manage.py auditlog check"
    empty = "There is no log yet. Housekeeping begins one with the first event."

    def arguments(self, parser: ArgumentParser) -> None:
        """What to do."""
        parser.add_argument(
            "verb", nargs="?", choices=["status", "check", "tiles", "trust"], default="status", help="(status)"
        )
        parser.add_argument("--log", metavar="ORIGIN", help="One log, by its name as status shows it; else all.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """Do it."""
        chosen = self._chosen(options["log"])
        match options["verb"]:
            case "check":
                return self._check(chosen)
            case "tiles":
                for log in chosen:
                    upkeep.rebuild_tiles(log)
            case "trust":
                self._trust(chosen, options["log"])
        return [_shown(log) for log in chosen]

    def _chosen(self, origin: str | None) -> list[Log]:
        found = [log for log in upkeep.logs() if origin in (None, log.origin)]
        if origin is not None and not found:
            raise CommandError(f"There is no log {origin!r}. See: manage.py auditlog status")
        return found

    def _check(self, chosen: list[Log]) -> Facts:
        found = [problem for log in chosen for problem in upkeep.problems(log)]
        if found:
            raise CommandError("\n".join(found))
        return {"logs": len(chosen), "events": sum(log.size for log in chosen), "sound": True}

    def _trust(self, chosen: list[Log], named: str | None) -> None:
        if named is None:
            raise CommandError("Name the log: manage.py auditlog trust --log ORIGIN")
        try:
            upkeep.trust(chosen[0], ActorRef("system", f"command:{operator()}", "command"))
        except SignerRefuses as error:
            raise CommandError(str(error)) from error


def _shown(log: Log) -> Facts:
    with rls.platform_scope():
        head = proofs.head(log.tenant_id)
    return {
        "origin": head.origin,
        "size": head.size,
        "waiting": head.waiting,
        "signed_at": head.signed_at,
        "key": head.key,
    }
