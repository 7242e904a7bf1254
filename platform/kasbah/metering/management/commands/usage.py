"""Sum up what a tenant used."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kasbah.common.commands import Facts
from kasbah.common.errors import Invalid
from kasbah.common.times import moment
from kasbah.identity.commands import TenantCommand, find_project
from kasbah.identity.models import ApiKey, Project, Tenant
from kasbah.metering.models import Usage
from kasbah.metering.services import GROUPS, sum_usage


class Command(TenantCommand):
    """`manage.py usage`."""

    help = "Sum up the requests and tokens of a tenant, by day, model, project or key."
    epilog = "Example: manage.py usage --tenant finance --by deployment --since 2026-11-01"
    empty = "Nothing was used in this time."

    def arguments(self, parser: ArgumentParser) -> None:
        """Of what, and how."""
        super().arguments(parser)
        parser.add_argument("--by", choices=GROUPS, default="day", help="How it is grouped (%(default)s).")
        parser.add_argument("--project", metavar="SLUG", help="Of one project.")
        parser.add_argument("--since", type=moment, metavar="TIME", help="From then on.")
        parser.add_argument("--until", type=moment, metavar="TIME", help="Until before then.")

    def act(self, tenant: Tenant, **options: Any) -> Sequence[Facts]:
        """One line a group."""
        since, until = options["since"], options["until"]
        if since and until and since >= until:
            raise Invalid("The period ends before it begins.", param="--until")
        chosen: dict[str, Any] = {"tenant": tenant}
        if options["project"]:
            chosen["project"] = find_project(tenant, options["project"])
        if since:
            chosen["created_at__gte"] = since
        if until:
            chosen["created_at__lt"] = until
        names = _names(tenant, options["by"])
        found = sum_usage(Usage.objects.filter(**chosen), options["by"])
        return [{options["by"]: names.get(group["group"], group["group"]), **_sums(group)} for group in found]


def _names(tenant: Tenant, by: str) -> dict[str, str]:
    rows: dict[UUID, str] = {}
    if by == "project":
        rows = dict(Project.objects.filter(tenant=tenant).values_list("id", "slug"))
    elif by == "api_key":
        rows = dict(ApiKey.objects.filter(tenant=tenant).values_list("id", "name"))
    return {str(ident): f"{name} ({ident})" if by == "api_key" else name for ident, name in rows.items()}


def _sums(group: Facts) -> Facts:
    return {name: value for name, value in group.items() if name != "group"}
