"""Show what a tenant's policy answers for every class, model and site."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from kasbah.common.commands import Facts
from kasbah.common.csvs import text
from kasbah.identity.commands import TenantCommand
from kasbah.identity.models import DataClass, Tenant
from kasbah.residency.commands import find_policy
from kasbah.serving.services.matrix import COLUMNS, Asked, tenant_matrix


class Command(TenantCommand):
    """`manage.py matrix`."""

    help = (
        "Show for every data class, model and site whether a tenant's policy allows it, by which rule, and whether a "
        "worker is ready there now."
    )
    epilog = "Example: manage.py matrix --tenant finance --class confidential --tag personal --csv"
    empty = "The tenant may use no model, or there is no site. Give a model with: manage.py grant; or use --all-models."

    def arguments(self, parser: ArgumentParser) -> None:
        """What the cells are asked about."""
        super().arguments(parser)
        parser.add_argument("--policy", metavar="ID", help="A version: its id or its number (the active one).")
        parser.add_argument("--class", dest="data_class", choices=DataClass.values, help="One class; else all.")
        parser.add_argument("--tag", action="append", default=[], help="Of the data; may be given several times.")
        parser.add_argument("--purpose", default="", help="What it is for.")
        parser.add_argument("--project", default="", metavar="SLUG", help="From which project.")
        parser.add_argument("--all-models", action="store_true", help="Also models that the tenant may not use.")
        parser.add_argument("--csv", action="store_true", help="Print CSV.")

    def act(self, tenant: Tenant, **options: Any) -> Facts | Sequence[Facts] | str:
        """Ask."""
        asked = Asked(
            data_classes=(options["data_class"],) if options["data_class"] else tuple(DataClass.values),
            tags=tuple(options["tag"]),
            purpose=options["purpose"],
            project=options["project"],
            every_model=options["all_models"],
        )
        policy = find_policy(tenant, options["policy"]) if options["policy"] else None
        rows = tenant_matrix(tenant, asked, policy).rows()
        return text(COLUMNS, rows) if options["csv"] else list(rows)
