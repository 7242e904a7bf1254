"""Show which tenants would be left without a site."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand, uuid_argument
from kasbah.serving.commands import find_site
from kasbah.serving.models import Worker
from kasbah.serving.services.impact import rows, site_impact, worker_impact


class Command(KasbahCommand):
    """`manage.py impact`."""

    help = (
        "Show which tenants would be left without a compliant site, or without one that is up, for which class and "
        "model, if a site or worker were cordoned, drained or lost. Nothing is changed."
    )
    epilog = "Example: manage.py impact --site paris"
    empty = "No tenant would be left without a compliant site that is up."

    def arguments(self, parser: ArgumentParser) -> None:
        """What is taken out."""
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--site", metavar="SLUG", help="A site.")
        which.add_argument("--worker", type=uuid_argument, metavar="ID", help="A worker.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """Compare."""
        if options["site"]:
            found = site_impact(find_site(options["site"]))
        else:
            worker = Worker.objects.filter(pk=options["worker"]).first()
            if worker is None:
                raise CommandError(f"There is no worker {options['worker']}.")
            found = worker_impact(worker)
        for tenant in found.left_out:
            self.say(f"Tenant {tenant}: its rules tell too many situations apart; only the first were asked.")
        return list(rows(found))
