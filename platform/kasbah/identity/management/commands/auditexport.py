"""Export a tenant's audit log, or the system's, as a file that is checked without Kasbah."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError

from inference_worker.contract.printable import escaped
from kasbah.audit.services import exports
from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.common.numbers import LARGEST_SIZE, number_argument
from kasbah.common.times import moment
from kasbah.identity.commands import acting_person, command_actor, find_tenant, find_user
from kasbah.identity.services import Actor


class Command(KasbahCommand):
    """`manage.py auditexport`."""

    help = (
        "Export a log as a zip with the program that checks it: `python3 verify.py FILE --key KEY`, on any machine. "
        "The same part of the same log gives the same file. An export that was cut off goes on when the same command "
        "is given again."
    )
    epilog = "Example: manage.py auditexport --tenant finance --from 2026-11-01 --to 2026-12-01 --output november.zip"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which log and what of it, and where to."""
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--tenant", metavar="SLUG", help="The tenant whose log it is.")
        whose.add_argument("--system", action="store_true", help="The log of the installation itself.")
        parser.add_argument("--from", dest="since", type=moment, metavar="TIME", help="First moment; else the start.")
        parser.add_argument("--to", dest="until", type=moment, metavar="TIME", help="Up to here; else all there is.")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--person", metavar="USER", help="What a user (id or e-mail) did, and what was done to him.")
        what.add_argument("--model", metavar="DIGEST", help="What is on record of a model's version.")
        what.add_argument("--request", metavar="ID", help="The dossier of one request.")
        parser.add_argument(
            "--open",
            dest="parts",
            choices=list(exports.PARTS),
            help="With --request or --person: open content that is kept, in the name of --by.",
        )
        parser.add_argument("--by", metavar="EMAIL", help="The auditor of the tenant who reads the content.")
        parser.add_argument(
            "--since-size",
            type=number_argument(1, LARGEST_SIZE),
            metavar="N",
            help="Prove that the log begins with the checkpoint of N events that was kept.",
        )
        parser.add_argument("--output", required=True, type=Path, metavar="PATH", help="New file to write.")

    def run(self, **options: Any) -> Facts:
        """Export."""
        output: Path = options["output"]
        if output.exists():
            raise CommandError(f"{output} exists already; it was left as it is. Name another file.")
        if bool(options["parts"]) != bool(options["by"]):
            raise CommandError("--open and --by belong together: a person reads content, and it is on record.")
        wanted = _wanted(options)
        actor = acting_person(options["by"]) if options["by"] else command_actor()
        try:
            done = _export(output, wanted, actor)
        except OSError as error:
            raise CommandError(
                f"Cannot write {output}: {error.strerror}. What was read is kept in {_folder(output)}: give the same"
                " command again to go on, or remove that folder."
            ) from error
        return {
            "file": str(output),
            "log": done.origin,
            "events": done.events,
            "from_event": done.start,
            "of": done.size,
            "manifest": done.manifest,
            "key": exports.log_key(done.origin).vkey(),
        }


def _wanted(options: dict[str, Any]) -> exports.Wanted:
    tenant = find_tenant(options["tenant"]).id if options["tenant"] else None
    person: str = options["person"] or ""
    if "@" in person:
        person = str(find_user(person).id)
    elif person:
        try:
            person = str(UUID(person))
        except ValueError as error:
            raise CommandError(f"--person takes a user's id or e-mail address, not {person!r}.") from error
    given = {exports.PERSON: person, exports.MODEL: options["model"], exports.REQUEST: options["request"]}
    return exports.Wanted(
        tenant_id=tenant,
        since=options["since"],
        until=options["until"],
        selection=next((exports.Selection(kind, by) for kind, by in given.items() if by), exports.Selection()),
        opened=exports.PARTS[options["parts"]] if options["parts"] else (),
        since_size=options["since_size"],
    )


def _export(output: Path, wanted: exports.Wanted, actor: Actor) -> exports.Exported:
    scope = rls.platform_scope() if wanted.tenant_id is None else rls.tenant_scope(wanted.tenant_id)
    folder = _folder(output)
    with scope:
        work, choice, same = exports.begin(folder, wanted, actor)
        if not same:
            _say(f"What lay in {folder} was for another export or another state of the log; beginning anew.")
        with closing(work):
            if work.events:
                _say(f"Going on after {work.events:,} of {choice.plan.events:,} events.")
            try:
                with work.archive() as file:
                    done = exports.export(file, work, choice, actor, _progress())
                    file.flush()
                    os.fsync(file.fileno())
            except exports.ExportBroken:
                work.remove()
                raise
            except BaseException:
                work.drop_archive()
                raise
            work.finish(output)
    return done


def _folder(output: Path) -> Path:
    return output.with_name(output.name + ".part")


def _say(text: str) -> None:
    print(escaped(text), file=sys.stderr, flush=True)


def _progress() -> Callable[[int, int], None]:
    """Every two seconds a line on standard error, for exports that take long. Each event is read and then written."""
    said = time.monotonic()
    first: list[float] = []  # when, and how much was done, when it was first heard

    def hear(done: int, of: int) -> None:
        nonlocal said
        now = time.monotonic()
        if not first:
            first.extend((now, done))
        if now - said >= 2 and done > first[1]:
            said = now
            left = (now - first[0]) / (done - first[1]) * (of - done)
            step = "reading" if 2 * done < of else "writing"
            _say(f"{step}: {100 * done // of} %, about {left:.0f} s left")

    return hear
