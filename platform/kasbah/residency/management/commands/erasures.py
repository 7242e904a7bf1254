"""List erasures on demand; ask for one, or agree to one, as two persons."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from datetime import date
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.models import Erasure, ErasureBasis
from kasbah.common.commands import Facts, uuid_argument
from kasbah.common.times import BadTime, read_day, time_argument
from kasbah.identity.commands import TenantCommand, acting_person, required
from kasbah.identity.models import Tenant
from kasbah.residency.services import erasures
from kasbah.residency.services.erasures import Wish


class Command(TenantCommand):
    """`manage.py erasures`."""

    help = (
        "List a tenant's erasures on demand (list); ask for one in the name of one person (request), and in the name "
        "of another agree to it (approve) or refuse it (reject); take one back (withdraw). Approving destroys keys: "
        "nothing brings the content back."
    )
    epilog = (
        'Example: manage.py erasures request --tenant finance --month 2026-01 --basis authority --reason "Order 7" '
        "--by ada@example.org"
    )
    empty = "There is no erasure. Ask for one with request."

    def arguments(self, parser: ArgumentParser) -> None:
        """Which, and what to do."""
        verbs = ["list", "request", "approve", "reject", "withdraw"]
        parser.add_argument("verb", nargs="?", choices=verbs, default="list", help="What to do (list).")
        super().arguments(parser)
        parser.add_argument("--id", type=uuid_argument, metavar="ID", help="Which, to approve, reject or withdraw.")
        parser.add_argument("--by", metavar="EMAIL", help="In whose name.")
        parser.add_argument("--basis", choices=ErasureBasis.values, help="Why it may go.")
        parser.add_argument("--reason", default="", metavar="TEXT", help="Why, in words; they stay out of the log.")
        parser.add_argument("--month", type=month_argument, metavar="YYYY-MM", help="All that was stored in a month.")
        parser.add_argument("--request", default="", metavar="ID", help="The content of one request.")
        parser.add_argument("--person", type=uuid_argument, metavar="ID", help="All of a user, or of one API key.")
        parser.add_argument("--since", type=time_argument, metavar="TIME", help="Of a person: stored from then on.")
        parser.add_argument("--until", type=time_argument, metavar="TIME", help="Of a person: stored before then.")
        parser.add_argument("--digest", metavar="HEX", help="With approve: of what you looked at, as list shows it.")

    def act(self, tenant: Tenant, **options: Any) -> Facts | Sequence[Facts]:
        """List or change."""
        verb = options["verb"]
        if verb == "list":
            return [line(row) for row in Erasure.objects.filter(tenant_id=tenant.id).order_by("id")]
        if not options["by"]:
            raise CommandError("--by: name the person.")
        person = acting_person(options["by"])
        if verb == "request":
            wish = Wish(
                month=options["month"],
                request_id=options["request"],
                person=options["person"],
                since=options["since"],
                until=options["until"],
            )
            words = {"basis": options["basis"] or "", "reason": options["reason"]}
            return line(erasures.request_erasure(person, tenant, wish, **words))
        found = Erasure.objects.filter(tenant_id=tenant.id, pk=options["id"]).first()
        if found is None:
            raise CommandError(f"Tenant {tenant.slug} has no erasure {options['id'] or '; give its --id'}.")
        match verb:
            case "approve":
                return line(erasures.approve_erasure(person, found, required(options, "digest")))
            case "reject":
                return line(erasures.reject_erasure(person, found, options["reason"]))
            case _:
                return line(erasures.withdraw_erasure(person, found))


def month_argument(value: str) -> date:
    """The first day of a month. Raises ArgumentTypeError."""
    try:
        return read_day(f"{value}-01")
    except BadTime:
        raise ArgumentTypeError(f"{value[:20]!a} is not a month such as 2026-01") from None


def line(row: Erasure) -> Facts:
    """What is shown of one."""
    return {
        "id": row.id,
        "state": row.state,
        "kind": row.kind,
        "basis": row.basis,
        "month": str(row.month)[:7] if row.month else None,
        "request": row.request_id,
        "person": row.person,
        "records": row.records,
        "digest": row.digest,
        "expires_at": row.expires_at,
        "event": row.event_id,
    }
