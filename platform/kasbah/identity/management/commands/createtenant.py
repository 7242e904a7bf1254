"""Create a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity import services
from kasbah.identity.commands import command_actor
from kasbah.identity.models import DataClass


class Command(KasbahCommand):
    """`manage.py createtenant`."""

    help = "Create a tenant: an organisation or department whose data is kept apart from all others."
    epilog = "Example: manage.py createtenant --slug finance --name 'Ministry of Finance'"

    def arguments(self, parser: ArgumentParser) -> None:
        """Who it is."""
        parser.add_argument("--slug", required=True, help="Names it in paths: lower-case letters, digits, hyphens.")
        parser.add_argument("--name", required=True, help="What people call it.")
        parser.add_argument(
            "--data-class",
            choices=DataClass.values,
            default="",
            help="Class of requests that name none, nor their key and project (default: the strictest of the policy).",
        )

    def run(self, **options: Any) -> Facts:
        """Create it."""
        tenant = services.create_tenant(
            command_actor(), slug=options["slug"], name=options["name"], default_data_class=options["data_class"]
        )
        return {"id": tenant.id, "slug": tenant.slug, "name": tenant.name}
