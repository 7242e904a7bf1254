"""Add a version of a policy."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity.models import Tenant
from kasbah.residency import services
from kasbah.residency.commands import PolicyCommand, activate, add_activation, asker, facts, read_text


class Command(PolicyCommand):
    """`manage.py putpolicy`."""

    help = (
        "Add a version of a tenant's residency policy, or of the platform's baseline, as a draft. With --activate its "
        "activation is asked for at once; what loosens something waits for a second person (approvepolicy)."
    )
    epilog = "Example: manage.py putpolicy --tenant finance --file policy.yaml --activate --by ada@example.org"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--file", required=True, metavar="PATH", help="YAML or JSON; - reads standard input.")
        parser.add_argument("--activate", action="store_true", help="Ask for its activation.")
        add_activation(parser)

    def act(self, tenant: Tenant | None, **options: Any) -> Facts:
        """Add it."""
        policy = services.create_policy(asker(options), tenant, read_text(options["file"]))
        return facts(activate(policy, options) if options["activate"] else policy)
