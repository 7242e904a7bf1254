"""Approve a version of a model."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.commands import acting_person
from kasbah.registry import services


class Command(KasbahCommand):
    """`manage.py approveversion`."""

    help = (
        "Let a version of a model be deployed. It is approved in the name of a platform administrator, who must be "
        "another person than the one who brought it in."
    )
    epilog = "Example: manage.py approveversion --digest 3f0c... --by grace@example.org"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which, and who says so."""
        parser.add_argument("--digest", required=True, help="Its digest, as registermodel shows it.")
        parser.add_argument("--by", required=True, metavar="EMAIL", help="Who approves it.")

    def run(self, **options: Any) -> Facts:
        """Approve it."""
        version = services.approve(acting_person(options["by"]), services.get(options["digest"]))
        return {"id": version.id, "digest": version.digest, "stage": version.stage, "approved_by": options["by"]}
