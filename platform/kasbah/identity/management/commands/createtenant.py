"""Create a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity import services
from kasbah.identity.commands import command_actor


class Command(KasbahCommand):
    """`manage.py createtenant`."""

    help = "Create a tenant: an organisation or department whose data is kept apart from all others."
    epilog = "Example: manage.py createtenant --slug finance --name 'Ministry of Finance'"

    def arguments(self, parser: ArgumentParser) -> None:
        """Who it is."""
        parser.add_argument("--slug", required=True, help="Names it in paths: lower-case letters, digits, hyphens.")
        parser.add_argument("--name", required=True, help="What people call it.")

    def run(self, **options: Any) -> Facts:
        """Create it."""
        tenant = services.create_tenant(command_actor(), slug=options["slug"], name=options["name"])
        return {"id": tenant.id, "slug": tenant.slug, "name": tenant.name}
