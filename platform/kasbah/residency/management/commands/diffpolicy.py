"""Show what changed between two versions of a policy."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from kasbah.common.commands import Facts
from kasbah.common.numbers import LARGEST_VERSION, number_argument
from kasbah.identity.models import Tenant
from kasbah.residency.commands import PolicyCommand, find_version
from kasbah.residency.difference import difference


class Command(PolicyCommand):
    """`manage.py diffpolicy`."""

    help = "Show what changed from one version of a policy to another: rules added, removed and changed, and settings."
    epilog = "Example: manage.py diffpolicy --tenant finance --from 2 --to 3"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which two."""
        super().arguments(parser)
        parser.add_argument(
            "--from",
            required=True,
            type=number_argument(1, LARGEST_VERSION),
            metavar="NUMBER",
            help="The older version.",
        )
        parser.add_argument(
            "--to", required=True, type=number_argument(1, LARGEST_VERSION), metavar="NUMBER", help="The newer version."
        )

    def act(self, tenant: Tenant | None, **options: Any) -> Facts:
        """Compare them."""
        old, new = find_version(tenant, options["from"]), find_version(tenant, options["to"])
        return difference(old.document, new.document)
