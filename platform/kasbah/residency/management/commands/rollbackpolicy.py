"""Go back to an earlier version."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.residency import services
from kasbah.residency.commands import VersionCommand, add_activation, asker
from kasbah.residency.models import PolicyVersion


class Command(VersionCommand):
    """`manage.py rollbackpolicy`."""

    help = (
        "Go back to a version that once decided: a new version of its document is made and its activation asked for, "
        "on the same terms as any other."
    )
    epilog = "Example: manage.py rollbackpolicy --tenant finance --policy-version 2 --by ada@example.org"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        add_activation(parser)

    def step(self, policy: PolicyVersion, **options: Any) -> PolicyVersion:
        """Make the new version and ask for it."""
        return services.roll_back(asker(options), policy, options["at"])
