"""Add a version of a tenant's residency policy."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand, command_actor
from kasbah.identity.models import Tenant
from kasbah.residency import services
from kasbah.residency.commands import facts, read_document


class Command(TenantCommand):
    """`manage.py putpolicy`."""

    help = "Add a version of a tenant's residency policy as a draft; with --activate it decides from now on."
    epilog = "Example: manage.py putpolicy --tenant finance --file policy.json --activate"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--file", required=True, metavar="PATH", help="JSON document; - reads standard input.")
        parser.add_argument("--activate", action="store_true", help="Activate it at once.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Add it."""
        actor = command_actor()
        policy = services.create_policy(actor, tenant, read_document(options["file"]))
        if options["activate"]:
            policy = services.activate_policy(actor, policy)
        return facts(policy)
