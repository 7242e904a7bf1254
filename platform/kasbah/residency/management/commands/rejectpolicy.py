"""Reject, as the second person, what was asked for."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.identity.commands import acting_person
from kasbah.residency import services
from kasbah.residency.commands import VersionCommand
from kasbah.residency.models import PolicyVersion


class Command(VersionCommand):
    """`manage.py rejectpolicy`."""

    help = "Reject a version that waits for approval, in the name of a second person, and say why. It ends there."
    epilog = "Example: manage.py rejectpolicy --tenant finance --policy-version 3 --by g@example.org --reason Wide"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--by", required=True, metavar="EMAIL", help="Who rejects it.")
        parser.add_argument("--reason", required=True, metavar="TEXT", help="Why, in at most 500 characters.")

    def step(self, policy: PolicyVersion, **options: Any) -> PolicyVersion:
        """Reject it."""
        return services.reject_policy(acting_person(options["by"]), policy, options["reason"])
