"""Take back a request."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.residency import services
from kasbah.residency.commands import VersionCommand, asker
from kasbah.residency.models import PolicyVersion


class Command(VersionCommand):
    """`manage.py withdrawpolicy`."""

    help = "Take back a version that waits for approval, or whose time has not come. It ends there."
    epilog = "Example: manage.py withdrawpolicy --tenant finance --policy-version 3"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--by", metavar="EMAIL", help="In whose name; left out: the platform.")

    def step(self, policy: PolicyVersion, **options: Any) -> PolicyVersion:
        """Take it back."""
        return services.withdraw_policy(asker(options), policy)
