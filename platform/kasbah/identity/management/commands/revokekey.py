"""Revoke an API key."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, uuid_argument
from kasbah.identity import services
from kasbah.identity.commands import TenantCommand, command_actor
from kasbah.identity.models import ApiKey, Tenant


class Command(TenantCommand):
    """`manage.py revokekey`."""

    help = "Refuse an API key from now on, everywhere within a second. It cannot be undone."
    epilog = "Example: manage.py revokekey --tenant finance --key 0199c1f2-7a3b-7c4d-8e5f-0123456789ab"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--key", required=True, type=uuid_argument, metavar="ID", help="Its id (not its text).")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Revoke it."""
        ident: UUID = options["key"]
        key = ApiKey.objects.filter(tenant=tenant, pk=ident).first()
        if key is None:
            raise CommandError(f"Tenant {tenant.slug} has no key {ident}.")
        services.revoke_api_key(command_actor(), key)
        key.refresh_from_db()
        return {"id": key.id, "name": key.name, "revoked_at": key.revoked_at}
