"""Issue an API key."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.utils import timezone

from kasbah.common.commands import Facts, write_secret
from kasbah.common.numbers import number_argument
from kasbah.identity import services
from kasbah.identity.commands import TenantCommand, command_actor, find_project
from kasbah.identity.models import DataClass, Role, Scope, Tenant


class Command(TenantCommand):
    """`manage.py createkey`."""

    help = "Issue an API key of a project. Its text is shown this once, or goes into a file that only you can read."
    epilog = "Example: manage.py createkey --tenant finance --project letters --name word-processor --expires-days 90"

    def arguments(self, parser: ArgumentParser) -> None:
        """What it may be used for."""
        super().arguments(parser)
        parser.add_argument("--project", required=True, metavar="SLUG", help="Project that the key belongs to.")
        parser.add_argument("--name", required=True, help="What uses it.")
        parser.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help="What it may be used for; may be given several times (default: inference).",
        )
        parser.add_argument(
            "--role",
            choices=Role.values,
            default=Role.DEVELOPER,
            help="Its role with a management scope (%(default)s).",
        )
        parser.add_argument("--data-class", choices=DataClass.values, default="", help="Class of its requests.")
        parser.add_argument(
            "--expires-days",
            type=number_argument(1, 3650, "a number of days"),
            metavar="DAYS",
            help="Refused after so many days.",
        )
        parser.add_argument("--key-file", type=Path, metavar="PATH", help="Write the key there (mode 600), not here.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Issue it."""
        issued = services.create_api_key(
            command_actor(),
            tenant,
            find_project(tenant, options["project"]),
            name=options["name"],
            scopes=options["scope"] or [Scope.INFERENCE.value],
            role=options["role"],
            default_data_class=options["data_class"],
            expires_at=self._end(options["expires_days"]),
        )
        facts = {"id": issued.key.id, "tenant": tenant.slug, "project": options["project"], "name": issued.key.name}
        facts |= {"scopes": issued.key.scopes, "expires_at": issued.key.expires_at}
        if options["key_file"] is None:
            return facts | {"key": issued.text}
        write_secret(options["key_file"], issued.text)
        return facts | {"key_file": str(options["key_file"])}

    def _end(self, number: int | None) -> datetime | None:
        return None if number is None else timezone.now() + timedelta(days=number)
