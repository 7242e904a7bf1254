"""Look after the transparency logs: how far they are, whether every byte is as it was signed."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.log import cluster, keys, proofs, rotation, sequencer, upkeep, witnessing
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Log
from kasbah.audit.log.note import BadNote, Key
from kasbah.audit.log.stored import LogAltered
from kasbah.audit.log.tiles import TileMissing
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand, operator


class Command(KasbahCommand):
    """`manage.py auditlog`."""

    help = (
        "Show the transparency logs (status); read them from the first event on and list what is not as it was signed "
        "(check); write their tiles again (tiles); write what a witness is to be asked, and take its answer, where a "
        "person carries the files (ask, take); let the signer go on after its memory was lost, once you know that the "
        "database is the right one (trust); go on in the PostgreSQL cluster that the database was moved to, "
        "once you know that it is the newest state (moved); let KASBAH_AUDIT_KEY sign instead of the key before it "
        "(rotate-key)."
    )
    epilog = "Example: manage.py auditlog check"
    empty = "There is no log yet. Housekeeping begins one with the first event."

    def arguments(self, parser: ArgumentParser) -> None:
        """What to do."""
        verbs = ["status", "check", "tiles", "ask", "take", "trust", "moved", "rotate-key"]
        parser.add_argument("verb", nargs="?", choices=verbs, default="status", help="What to do (status).")
        parser.add_argument("--log", metavar="ORIGIN", help="One log, by its name as status shows it; else all.")
        parser.add_argument("--witness", metavar="KEY", help="With ask and take: the witness's key, NAME+ID+KEY.")
        parser.add_argument("--revoke", action="store_true", help="With rotate-key: the key before is stolen or lost.")
        parser.add_argument("--file", type=Path, metavar="PATH", help="With ask: file to write. With take: the answer.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """Do it."""
        chosen = self._chosen(options["log"])
        match options["verb"]:
            case "check":
                return self._check(chosen)
            case "tiles":
                for log in chosen:
                    upkeep.rebuild_tiles(log)
            case "ask" | "take":
                return self._carry(chosen, options)
            case "trust":
                self._trust(chosen, options["log"])
            case "moved":
                self._move()
            case "rotate-key":
                return self._rotate(revoked=options["revoke"])
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

    def _carry(self, chosen: list[Log], options: dict[str, Any]) -> Facts:
        """Between here and a witness that has no line to here."""
        if not options["log"] or not options["witness"] or not options["file"]:
            raise CommandError("Give --log ORIGIN, --witness KEY and --file PATH.")
        try:
            key = Key.parse(options["witness"])
            with rls.platform_scope():
                checkpoint = witnessing.newest(chosen[0])
                if checkpoint is None:
                    raise CommandError("The log has no signed event yet.")
                if options["verb"] == "ask":
                    seen = witnessing.seen_by(chosen[0], key)
                    options["file"].write_text(witnessing.request_for(chosen[0], checkpoint, seen), encoding="utf-8")
                else:
                    answer = options["file"].read_text(encoding="utf-8")
                    checkpoint = witnessing.keep_any(chosen[0], key, answer).checkpoint
        except (BadNote, TileMissing) as error:
            raise CommandError(str(error)) from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{options['file']} is not UTF-8: it is no witness's answer") from error
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from error
        return {"log": chosen[0].origin, "size": checkpoint.size, "file": str(options["file"])}

    def _rotate(self, *, revoked: bool) -> Sequence[Facts]:
        """All logs: they have one key."""
        try:
            done = rotation.hand_over(_operator(), revoked=revoked)
        except SignerRefuses as error:
            raise CommandError(str(error)) from error
        if not done:
            raise CommandError("Every log is signed by KASBAH_AUDIT_KEY already. See: docs/operator/keys.md")
        return [{"log": row.new.partition("+")[0], "after": row.size, "old": row.old, "new": row.new} for row in done]

    def _trust(self, chosen: list[Log], named: str | None) -> None:
        if named is None:
            raise CommandError("Name the log: manage.py auditlog trust --log ORIGIN")
        try:
            upkeep.trust(chosen[0], _operator())
        except SignerRefuses as error:
            raise CommandError(str(error)) from error

    def _move(self) -> None:
        try:
            upkeep.move(_operator())
        except SignerRefuses as error:
            raise CommandError(str(error)) from error


def _operator() -> ActorRef:
    return ActorRef("system", f"command:{operator()}", "command")


def _shown(log: Log) -> Facts:
    head, following, wrong = None, "", ""
    with rls.platform_scope():
        place = cluster.find()
        waiting = sequencer.unplaced(log.tenant_id)
        try:
            head, following = proofs.head(log.tenant_id), keys.held_for(log.origin)[0].key.vkey()
        except LogAltered as error:
            wrong = error.finding
    return {
        "origin": log.origin,
        "size": head.size if head else log.size,
        "waiting": head.waiting if head else waiting,
        "moved_to_another_cluster": place.other,
        "signed_at": head.signed_at if head else None,
        "key": head.key if head else "",
        "answers_without_record": upkeep.answers_missing() if log.tenant_id is None else None,
        "next_key": following if head and following != head.key else "",
        "altered": wrong,
    }
