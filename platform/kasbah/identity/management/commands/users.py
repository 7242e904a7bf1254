"""List the people who have an account."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.models import Membership, User


class Command(KasbahCommand):
    """`manage.py users`."""

    help = "List the people who have an account, and in which tenants they have which role."
    epilog = "Example: manage.py users"
    empty = "Nobody has an account. Make one with: manage.py createuser --help"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("--email", metavar="TEXT", help="Those whose address holds this.")

    def run(self, **options: Any) -> Sequence[Facts]:
        """All of them, by address."""
        people = User.objects.filter(email__icontains=options["email"] or "").order_by("email")
        roles: dict[UUID, list[str]] = defaultdict(list)
        with rls.platform_scope():
            for row in Membership.objects.select_related("tenant").order_by("tenant__slug"):
                roles[row.user_id].append(f"{row.tenant.slug} ({row.role})")
        return [
            {
                "email": person.email,
                "name": person.name,
                "active": person.is_active,
                "platform_admin": person.is_platform_admin,
                "tenants": roles[person.id],
                "created_at": person.created_at,
                "id": person.id,
            }
            for person in people
        ]
