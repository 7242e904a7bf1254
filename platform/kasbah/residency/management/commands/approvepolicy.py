"""Approve, as the second person, what a version loosens."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.identity.commands import acting_person
from kasbah.residency import services
from kasbah.residency.commands import VersionCommand
from kasbah.residency.models import PolicyVersion


class Command(VersionCommand):
    """`manage.py approvepolicy`."""

    help = (
        "Approve a version that waits, in the name of a second person: neither its author nor who asked for it. It "
        "decides from its time on, or from now."
    )
    epilog = "Example: manage.py approvepolicy --tenant finance --policy-version 3 --by g@example.org --comparison 5f"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--by", required=True, metavar="EMAIL", help="Who approves it.")
        parser.add_argument("--comparison", required=True, metavar="HEX", help="Of what he saw, as policies shows it.")

    def step(self, policy: PolicyVersion, **options: Any) -> PolicyVersion:
        """Approve it."""
        return services.approve_policy(acting_person(options["by"]), policy, options["comparison"])
