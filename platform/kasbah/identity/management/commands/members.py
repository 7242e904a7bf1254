"""List the members of a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand
from kasbah.identity.models import Membership, Role, Tenant


class Command(TenantCommand):
    """`manage.py members`."""

    help = "List who may do what in a tenant. Platform administrators are members of none: see users."
    epilog = "Example: manage.py members --tenant finance --role auditor"
    empty = "Nobody. Add a member with: manage.py addmember --help"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--role", choices=Role.values, help="Those of one role.")

    def act(self, tenant: Tenant, **options: Any) -> Sequence[Facts]:
        """All of them, by address."""
        rows = Membership.objects.filter(tenant=tenant).select_related("user").order_by("user__email")
        if options["role"]:
            rows = rows.filter(role=options["role"])
        return [
            {
                "email": row.user.email,
                "name": row.user.name,
                "role": row.role,
                "active": row.user.is_active,
                "member_since": row.created_at,
                "user": row.user_id,
            }
            for row in rows
        ]
