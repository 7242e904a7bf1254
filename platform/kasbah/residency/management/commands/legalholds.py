"""List legal holds; place one, or release one by two persons."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.models import LegalHold
from kasbah.common.commands import Facts, uuid_argument
from kasbah.common.times import time_argument
from kasbah.identity.commands import TenantCommand, acting_person, command_actor, find_project, required
from kasbah.identity.models import DataClass, Tenant
from kasbah.residency.services import holds
from kasbah.residency.services.holds import Reach


class Command(TenantCommand):
    """`manage.py legalholds`."""

    help = (
        "List a tenant's legal holds, or place one, or release one. A release is asked for in the name of one person "
        "and agreed to in the name of another."
    )
    epilog = 'Example: manage.py legalholds --tenant finance --place --reason "Inquiry" --reference "2026/114"'
    empty = "There is no legal hold. Place one with --place."

    def arguments(self, parser: ArgumentParser) -> None:
        """Which, and what to do."""
        super().arguments(parser)
        change = parser.add_mutually_exclusive_group()
        change.add_argument("--place", action="store_true", help="Place a hold.")
        change.add_argument("--request-release", type=uuid_argument, metavar="ID", help="Ask for its release.")
        change.add_argument("--release", type=uuid_argument, metavar="ID", help="Release it, as the second person.")
        parser.add_argument("--by", metavar="EMAIL", help="Who asks for the release, or agrees to it.")
        parser.add_argument("--digest", metavar="HEX", help="With --release: of what you looked at, as the list shows.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why it is placed, or is to be released.")
        parser.add_argument("--reference", default="", metavar="TEXT", help="Of the proceeding.")
        parser.add_argument("--project", metavar="SLUG", help="Keep content of one project.")
        parser.add_argument("--data-class", choices=DataClass.values, default="", help="Keep content of one class.")
        parser.add_argument("--request", default="", metavar="ID", help="Keep content of one request.")
        parser.add_argument(
            "--since", type=time_argument, metavar="TIME", help="Keep what was stored from then on (RFC 3339)."
        )
        parser.add_argument(
            "--until", type=time_argument, metavar="TIME", help="Keep what was stored before then (RFC 3339)."
        )

    def act(self, tenant: Tenant, **options: Any) -> Facts | Sequence[Facts]:
        """List or change."""
        if options["place"]:
            reach = Reach(
                project_id=find_project(tenant, options["project"]).id if options["project"] else None,
                data_class=options["data_class"],
                request_id=options["request"],
                since=options["since"],
                until=options["until"],
            )
            actor, words = command_actor(), {name: options[name] for name in ("reason", "reference")}
            return line(holds.place_hold(actor, tenant, reach, **words))
        for verb in ("request_release", "release"):
            if options[verb] is not None:
                return line(self._release(tenant, verb, **options))
        return [line(hold) for hold in LegalHold.objects.filter(tenant_id=tenant.id).order_by("id")]

    def _release(self, tenant: Tenant, verb: str, **options: Any) -> LegalHold:
        hold = LegalHold.objects.filter(tenant_id=tenant.id, pk=options[verb]).first()
        if hold is None:
            raise CommandError(f"Tenant {tenant.slug} has no legal hold {options[verb]}.")
        if not options["by"]:
            raise CommandError("--by: name the person.")
        person = acting_person(options["by"])
        if verb == "release":
            return holds.release_hold(person, hold, required(options, "digest"))
        return holds.request_release(person, hold, options["reason"])


def line(hold: LegalHold) -> Facts:
    """What is shown of one."""
    asked = "release asked for" if hold.release_requested_at else "active"
    return {
        "id": hold.id,
        "state": "released" if hold.released_at else asked,
        "project": hold.project_id,
        "data_class": hold.data_class,
        "request": hold.request_id,
        "since": hold.since,
        "until": hold.until,
        "reference": hold.reference,
        "reason": hold.reason,
        "release_reason": hold.release_reason,
        "digest": holds.release_seen_of(hold),
        "placed_at": hold.placed_at,
        "released_at": hold.released_at,
    }
