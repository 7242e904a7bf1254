"""Erase content that the policy in force no longer lets be kept, or say what would be."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.common.exclusive import exclusive
from kasbah.identity.commands import command_actor, find_tenant
from kasbah.residency.services import retention
from kasbah.residency.services.retention import EXCLUSIVE, facts


class Command(KasbahCommand):
    """`manage.py retention`."""

    help = (
        "Erase content that the policies in force no longer let be kept, as the hourly job does. With --dry-run say "
        "what is kept, due and held, and erase nothing."
    )
    epilog = "Example: manage.py retention --dry-run --tenant finance"
    empty = "There is no tenant."

    def arguments(self, parser: ArgumentParser) -> None:
        """Of whom, and whether for real."""
        parser.add_argument("--tenant", metavar="SLUG", help="One tenant; else all.")
        parser.add_argument("--dry-run", action="store_true", help="Erase nothing.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """Do it."""
        tenants = [find_tenant(options["tenant"])] if options["tenant"] else retention.every_tenant()
        if options["dry_run"]:
            return [{"tenant": of.slug, **facts(item)} for of in tenants for item in retention.standing(of)]
        with exclusive(EXCLUSIVE) as held:
            if not held:
                return {"erased": 0, "note": "Another process is erasing now; look again when it is done."}
            return {"erased": retention.erase_due(command_actor().ref, tenants), "note": ""}
