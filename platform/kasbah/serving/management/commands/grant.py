"""Let a tenant use a deployment."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand, command_actor
from kasbah.identity.models import Tenant
from kasbah.serving import services
from kasbah.serving.commands import find_deployment


class Command(TenantCommand):
    """`manage.py grant`."""

    help = "Let a tenant use a deployment. Without a grant a model does not exist for a tenant."
    epilog = "Example: manage.py grant --tenant finance --deployment mixtral-8x7b"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--deployment", required=True, metavar="NAME", help="Its public name.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Grant it."""
        allowed = services.grant(command_actor(), tenant, find_deployment(options["deployment"]))
        return {"id": allowed.id, "tenant": tenant.slug, "deployment": options["deployment"]}
