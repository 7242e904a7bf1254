"""Check a residency policy without keeping it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.residency import services
from kasbah.residency.commands import read_document


class Command(KasbahCommand):
    """`manage.py checkpolicy`."""

    help = "Check a residency policy document and list everything that is wrong with it. Nothing is kept."
    epilog = "Example: manage.py checkpolicy --file policy.json"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("--file", required=True, metavar="PATH", help="JSON document; - reads standard input.")

    def run(self, **options: Any) -> Facts:
        """Check it."""
        problems = services.validate(read_document(options["file"]))
        if problems:
            raise CommandError("\n".join(str(problem) for problem in problems))
        return {"valid": True}
