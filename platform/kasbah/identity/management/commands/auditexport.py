"""Export a tenant's audit log, or the system's, as a file that is checked without Kasbah."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.services import exports
from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.commands import command_actor, find_tenant


def moment(text: str) -> datetime:
    """A day or a time; without a zone it is UTC. Raises ArgumentTypeError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is neither a day (2026-11-01) nor a time (2026-11-01T08:00Z)") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Command(KasbahCommand):
    """`manage.py auditexport`."""

    help = (
        "Export a log as a zip with the program that checks it: `python3 verify.py FILE --key KEY`, on any machine. "
        "The same range of the same log gives the same file."
    )
    epilog = "Example: manage.py auditexport --tenant finance --from 2026-11-01 --to 2026-12-01 --output november.zip"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which log and period, and where to."""
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--tenant", metavar="SLUG", help="The tenant whose log it is.")
        whose.add_argument("--system", action="store_true", help="The log of the installation itself.")
        parser.add_argument("--from", dest="since", type=moment, metavar="TIME", help="First moment; else the start.")
        parser.add_argument("--to", dest="until", type=moment, metavar="TIME", help="Up to here; else all there is.")
        parser.add_argument("--output", required=True, type=Path, metavar="PATH", help="New file to write.")

    def run(self, **options: Any) -> Facts:
        """Export."""
        output: Path = options["output"]
        if output.exists():
            raise CommandError(f"{output} exists already; it was left as it is. Name another file.")
        tenant = find_tenant(options["tenant"]).id if options["tenant"] else None
        part = output.with_name(output.name + ".part")
        try:
            with part.open("wb") as file, rls.platform_scope() if tenant is None else rls.tenant_scope(tenant):
                log, wanted = exports.choose(tenant, options["since"], options["until"])
                done = exports.export(file, log, wanted, command_actor().ref, _progress(wanted.end - wanted.start))
                file.flush()
                os.fsync(file.fileno())
            part.replace(output)
        except OSError as error:
            raise CommandError(f"Cannot write {output}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
        return {
            "file": str(output),
            "log": done.origin,
            "events": done.end - done.start,
            "from_event": done.start,
            "of": done.size,
            "manifest": done.manifest,
            "key": exports.log_key(done.origin).vkey(),
        }


def _progress(total: int) -> Callable[[int], None]:
    """Every two seconds a line on standard error, for exports that take long."""
    said = time.monotonic()

    def hear(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 2:
            said = time.monotonic()
            print(f"{done:,} of {total:,} events", file=sys.stderr, flush=True)

    return hear
