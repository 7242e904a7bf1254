"""Create a project of a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity import services
from kasbah.identity.commands import TenantCommand, command_actor
from kasbah.identity.models import DataClass, Tenant


class Command(TenantCommand):
    """`manage.py createproject`."""

    help = "Create a project: a group of API keys of one tenant, with the data class that its requests have by default."
    epilog = "Example: manage.py createproject --tenant finance --slug letters --name Letters --data-class internal"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--slug", required=True, help="Lower-case letters, digits, hyphens; unique in the tenant.")
        parser.add_argument("--name", required=True, help="What people call it.")
        parser.add_argument(
            "--data-class",
            choices=DataClass.values,
            default="",
            help="Class of requests that name none, nor their key (default: the tenant's).",
        )

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Create it."""
        project = services.create_project(
            command_actor(),
            tenant,
            slug=options["slug"],
            name=options["name"],
            default_data_class=options["data_class"],
        )
        return {"id": project.id, "tenant": tenant.slug, "slug": project.slug, "name": project.name}
