"""Check a residency policy without keeping it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.residency import services
from kasbah.residency.commands import read_text


class Command(KasbahCommand):
    """`manage.py checkpolicy`."""

    help = "Check a residency policy and list everything that is wrong with it, with its lines. Nothing is kept."
    epilog = "Example: manage.py checkpolicy --file policy.yaml"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("--file", required=True, metavar="PATH", help="YAML or JSON; - reads standard input.")

    def run(self, **options: Any) -> Facts:
        """Check it."""
        _, problems = services.validate_text(read_text(options["file"]))
        if problems:
            raise CommandError("\n".join(f"{options['file']}: {problem}" for problem in problems))
        return {"valid": True}
