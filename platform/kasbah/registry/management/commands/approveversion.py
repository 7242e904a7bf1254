"""Look at a version of a model; approve it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.commands import acting_person, required
from kasbah.registry import services


class Command(KasbahCommand):
    """`manage.py approveversion`."""

    help = (
        "Show a version of a model; with --by let it be deployed, in the name of a platform administrator, who must be "
        "another person than the one who brought it in, and who agrees to what was shown (--approval-digest)."
    )
    epilog = "Example: manage.py approveversion --digest 3f0c... --by grace@example.org --approval-digest 5f2c..."

    def arguments(self, parser: ArgumentParser) -> None:
        """Which, and who says so."""
        parser.add_argument("--digest", required=True, help="Its digest, as registermodel shows it.")
        parser.add_argument("--by", metavar="EMAIL", help="Who approves it.")
        parser.add_argument("--approval-digest", metavar="HEX", help="Of what he looked at, as shown without --by.")

    def run(self, **options: Any) -> Facts:
        """Show or approve it."""
        person = acting_person(options["by"]) if options["by"] else None
        version = services.get(options["digest"])
        if person is not None:
            version = services.approve(person, version, required(options, "approval_digest"))
        model = version.model
        return {
            "id": version.id,
            "digest": version.digest,
            "stage": version.stage,
            "model": model.name,
            "publisher": model.publisher,
            "licence": model.licence,
            "family": model.family,
            "bytes": version.size,
            "imported_by": version.imported_by_id,
            "approved_by": options["by"],
            "approval_digest": services.seen_of(version),
        }
