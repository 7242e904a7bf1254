"""Give a user a role in a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity import services
from kasbah.identity.commands import TenantCommand, command_actor, find_user
from kasbah.identity.models import Role, Tenant


class Command(TenantCommand):
    """`manage.py addmember`."""

    help = "Give a user a role in a tenant. One role each; change it over the management API."
    epilog = "Example: manage.py addmember --tenant finance --email ada@example.org --role tenant_admin"

    def arguments(self, parser: ArgumentParser) -> None:
        """Who may do what."""
        super().arguments(parser)
        parser.add_argument("--email", required=True, help="Address of the user.")
        parser.add_argument("--role", required=True, choices=Role.values, help="What he may do.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Add him."""
        member = services.add_member(command_actor(), tenant, find_user(options["email"]), options["role"])
        return {"id": member.id, "tenant": tenant.slug, "email": options["email"], "role": member.role}
