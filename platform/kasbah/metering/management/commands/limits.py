"""List the limits in a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand
from kasbah.identity.models import ApiKey, Project, Tenant
from kasbah.metering.models import Limit, LimitScope


class Command(TenantCommand):
    """`manage.py limits`."""

    help = "List the limits of a tenant, its projects and its keys. They are set over the management API."
    epilog = "Example: manage.py limits --tenant finance"
    empty = "There is no limit of its own: what holds for everybody holds (docs/administrator/management-api.md)."

    def act(self, tenant: Tenant, **options: Any) -> Sequence[Facts]:
        """All of them, the widest first."""
        names: dict[UUID, str] = {tenant.id: tenant.slug}
        names |= dict(Project.objects.filter(tenant=tenant).values_list("id", "slug"))
        names |= dict(ApiKey.objects.filter(tenant=tenant).values_list("id", "name"))
        widest = {LimitScope.TENANT: 0, LimitScope.PROJECT: 1, LimitScope.API_KEY: 2}
        rows = sorted(Limit.objects.filter(tenant=tenant), key=lambda row: (widest[LimitScope(row.scope)], row.id))
        return [
            {
                "scope": row.scope,
                "of": names.get(row.subject_id, str(row.subject_id)),
                "requests_per_minute": row.requests_per_minute,
                "tokens_per_minute": row.tokens_per_minute,
                "tokens_per_period": row.tokens_per_period,
                "period": row.period,
                "id": row.id,
            }
            for row in rows
        ]
