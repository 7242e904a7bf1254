"""Ask that a draft of a policy decide."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.residency.commands import VersionCommand, activate, add_activation
from kasbah.residency.models import PolicyVersion


class Command(VersionCommand):
    """`manage.py activatepolicy`."""

    help = (
        "Ask that a draft decide, from now or from --at on. What loosens nothing does so by that; the rest is asked "
        "for in the name of one person, --by, and waits for a second one, who approves it with approvepolicy."
    )
    epilog = "Example: manage.py activatepolicy --tenant finance --policy-version 3 --by ada@example.org"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        add_activation(parser)

    def step(self, policy: PolicyVersion, **options: Any) -> PolicyVersion:
        """Ask for it."""
        return activate(policy, options)
