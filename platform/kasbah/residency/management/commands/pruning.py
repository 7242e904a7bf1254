"""List pruning policies; ask for one, or agree to one, as two persons; end one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.log.models import LEAST_DAYS
from kasbah.audit.models import PruningPolicy
from kasbah.common.commands import Facts, uuid_argument
from kasbah.common.numbers import number_argument
from kasbah.identity.commands import TenantCommand, acting_person, required
from kasbah.identity.models import Tenant
from kasbah.residency.services import pruning


class Command(TenantCommand):
    """`manage.py pruning`."""

    help = (
        "List a tenant's pruning policies (list): how long the bytes of inference events stay in the audit log. Ask "
        "for one in the name of one person (request), and in the name of another agree to it (approve) or refuse it "
        "(reject); take one back, or end the one in force (end)."
    )
    epilog = 'Example: manage.py pruning request --tenant finance --keep-days 400 --reason "Space" --by ada@example.org'
    empty = "There is no pruning policy, so no event is removed. Ask for one with request."

    def arguments(self, parser: ArgumentParser) -> None:
        """Which, and what to do."""
        verbs = ["list", "request", "approve", "reject", "end"]
        parser.add_argument("verb", nargs="?", choices=verbs, default="list", help="What to do (list).")
        super().arguments(parser)
        parser.add_argument("--id", type=uuid_argument, metavar="ID", help="Which, to approve, reject or end.")
        parser.add_argument("--by", metavar="EMAIL", help="In whose name.")
        parser.add_argument("--digest", metavar="HEX", help="With approve: of what you looked at, as list shows it.")
        parser.add_argument(
            "--keep-days",
            type=number_argument(LEAST_DAYS, pruning.MOST_DAYS, "a number of days"),
            default=0,
            metavar="DAYS",
            help="How long; 183 at least.",
        )
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why, in words; they stay out of the log.")

    def act(self, tenant: Tenant, **options: Any) -> Facts | Sequence[Facts]:
        """List or change."""
        verb = options["verb"]
        if verb == "list":
            return [line(row) for row in PruningPolicy.objects.filter(tenant_id=tenant.id).order_by("id")]
        if not options["by"]:
            raise CommandError("--by: name the person.")
        person = acting_person(options["by"])
        if verb == "request":
            return line(pruning.request_pruning(person, tenant, options["keep_days"], reason=options["reason"]))
        found = PruningPolicy.objects.filter(tenant_id=tenant.id, pk=options["id"]).first()
        if found is None:
            raise CommandError(f"Tenant {tenant.slug} has no pruning policy {options['id'] or '; give its --id'}.")
        match verb:
            case "approve":
                return line(pruning.approve_pruning(person, found, required(options, "digest")))
            case "reject":
                return line(pruning.reject_pruning(person, found, options["reason"]))
            case _:
                return line(pruning.end_pruning(person, found))


def line(row: PruningPolicy) -> Facts:
    """What is shown of one."""
    return {
        "id": row.id,
        "state": row.state,
        "keep_days": row.keep_days,
        "reason": row.words,
        "digest": pruning.seen_of(row),
        "expires_at": row.expires_at,
        "event": row.event_id,
    }
