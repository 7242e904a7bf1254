"""Explain what a tenant's policy decides."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from kasbah.common.commands import Facts
from kasbah.common.times import time_argument
from kasbah.identity.commands import TenantCommand
from kasbah.identity.models import DataClass, Tenant
from kasbah.residency import services


class Command(TenantCommand):
    """`manage.py decide`."""

    help = "Explain what a tenant's active policy would decide, by the function that decides requests."
    epilog = "Example: manage.py decide --tenant finance --data-class confidential --model mixtral-8x7b"

    def arguments(self, parser: ArgumentParser) -> None:
        """The request that might be made."""
        super().arguments(parser)
        parser.add_argument("--data-class", required=True, choices=DataClass.values, help="How sensitive it is.")
        parser.add_argument("--model", required=True, help="Public name of the model.")
        parser.add_argument("--tag", action="append", default=[], help="Such as personal; may be given several times.")
        parser.add_argument("--purpose", default="", help="What it is for.")
        parser.add_argument("--project", default="", metavar="SLUG", help="From which project.")
        parser.add_argument(
            "--found", action="store_true", help="The policy's classifier finds something in its text, and raises it."
        )
        parser.add_argument("--at", type=time_argument, metavar="TIME", help="When, such as 2027-01-01T00:00:00Z; now.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Ask."""
        explained = asdict(
            services.explain(
                tenant,
                data_class=options["data_class"],
                model=options["model"],
                tags=options["tag"],
                purpose=options["purpose"],
                project=options["project"],
                at=options["at"],
                found=options["found"],
            )
        )
        if not options["as_json"]:
            explained["reasons"] = [f"{line['site']}: {line['reason']}" for line in explained["reasons"]]
        return explained
