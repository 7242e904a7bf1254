"""Show what processes of the installation were refused to connect to."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from kasbah.audit.egress.models import EgressAttempt
from kasbah.common.commands import Facts, KasbahCommand

SHOWN = 500


class Command(KasbahCommand):
    """`manage.py egress`."""

    help = (
        "List connections that a process was refused because they are not on its list, the latest first. What must be "
        "allowed is added to KASBAH_EGRESS_ALLOW; what nobody knows is a matter for whoever looks after security."
    )
    epilog = "Example: manage.py egress --process serve@gateway-1"
    empty = "Nothing was refused."

    def arguments(self, parser: ArgumentParser) -> None:
        """Whose."""
        parser.add_argument("--process", metavar="NAME", help="Of one process, as the list names it.")

    def run(self, **options: Any) -> Sequence[Facts]:
        """List."""
        rows = EgressAttempt.objects.order_by("-last_seen")
        if options["process"]:
            rows = rows.filter(process=options["process"])
        columns = ("process", "destination", "count", "first_seen", "last_seen")
        return [dict(row) for row in rows.values(*columns)[:SHOWN]]
