"""Say what another policy would have decided about the requests of the last days."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from kasbah.common.commands import Facts
from kasbah.common.csvs import Table
from kasbah.common.numbers import number_argument
from kasbah.identity.commands import TenantCommand, command_actor
from kasbah.identity.models import Tenant
from kasbah.residency.commands import find_policy, read_document
from kasbah.residency.services import simulation
from kasbah.residency.simulation import CHANGE_COLUMNS, CHANGES

PROGRESS_EVERY = 10_000  # events


class Command(TenantCommand):
    """`manage.py simulatepolicy`."""

    help = (
        "Say what a policy would have decided about the tenant's requests of the last days, from the audit log. "
        "Nothing is activated."
    )
    epilog = "Example: manage.py simulatepolicy --tenant finance --file policy.yaml --days 7 --csv changes.csv"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which policy, and over which period."""
        super().arguments(parser)
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--file", metavar="PATH", help="A document; - reads standard input. It is not kept.")
        which.add_argument("--policy", metavar="ID", help="A version that is kept: its id or its number.")
        parser.add_argument(
            "--days",
            type=number_argument(1, simulation.MOST_DAYS, "a number of days"),
            default=simulation.DAYS,
            metavar="NUMBER",
            help="How far to look back (%(default)s).",
        )
        parser.add_argument("--csv", metavar="PATH", help="Write the requests that would change to a new file.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Simulate it."""
        policy = find_policy(tenant, options["policy"]) if options["policy"] else read_document(options["file"])
        now = timezone.now()
        period = simulation.Period.of(now - timedelta(days=options["days"]), now)
        with new_table(options["csv"]) if options["csv"] else nullcontext() as table:
            result = simulation.simulate_policy(
                command_actor(),
                tenant,
                policy,
                period,
                seconds=None,
                on_change=None if table is None else lambda change: table.write(change.row()),
                progress=self.progress,
            )
        found = simulation.facts(result)
        return found if options["as_json"] else for_people(found, options["csv"])

    def progress(self, events: int) -> None:
        """A line now and then."""
        if events % PROGRESS_EVERY == 0:
            self.say(f"{events} events read")


@contextmanager
def new_table(path: str) -> Iterator[Table]:
    """A table in a new file that only its owner can read; removed when nothing came of it. Raises CommandError."""
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline="")
    except FileExistsError as error:
        raise CommandError(f"{path} exists already; it was left as it is. Name another file.") from error
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror or error}") from error
    try:
        with file:
            yield Table(file, CHANGE_COLUMNS)
    except BaseException:
        os.unlink(path)  # noqa: PTH108 - beside os.open
        raise


def for_people(found: Facts, csv: str | None) -> Facts:
    """The summary, the numbers, and where the changes are."""
    shown: dict[str, Any] = {"summary": found["summary"], "requests": found["requests"], **found["counts"]}
    for dimension in ("data_class", "model", "rule"):
        changed = {
            group["value"]: sum(group[kind] for kind in CHANGES)
            for group in found["groups"]
            if group["by"] == dimension
        }
        shown[f"changed by {dimension}"] = [f"{value}: {count}" for value, count in changed.items() if count]
    shown["sites"] = [f"{site['site']}: -{site['lost']} +{site['gained']}" for site in found["sites"]]
    for reason in found["not_comparable"]:
        shown[f"not comparable ({reason['requests']})"] = reason["reason"]
    for kind in CHANGES:
        shown[f"examples {kind.value}"] = found["examples"][kind.value][:5]
    return shown | ({"csv": csv} if csv else {})
