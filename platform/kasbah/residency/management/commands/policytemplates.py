"""List ready-made policies, or print one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import msgspec
from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.residency.services.templates import policy_template, policy_templates


class Command(KasbahCommand):
    """`manage.py policytemplates`."""

    help = (
        "List the policies to start from, or print one as YAML to edit and give to putpolicy. Each is a starting "
        "point, not legal advice."
    )
    epilog = "Example: manage.py policytemplates show morocco"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("verb", nargs="?", choices=["list", "show"], default="list", help="What to do (list).")
        parser.add_argument("name", nargs="?", help="The template; not for list.")

    def run(self, **options: Any) -> Facts | Sequence[Facts] | str:
        """List or print."""
        if options["verb"] == "list":
            return [
                {
                    "name": template.name,
                    "title": template.title,
                    "what_it_does": template.summary,
                    "review_by": template.review_by.isoformat(),
                }
                for template in policy_templates()
            ]
        if options["name"] is None:
            raise CommandError("Name the template: manage.py policytemplates show NAME")
        template = policy_template(options["name"])
        shown: dict[str, Any] = msgspec.to_builtins(template)
        return shown if options["as_json"] else template.text
