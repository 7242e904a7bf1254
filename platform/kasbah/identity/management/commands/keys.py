"""List the API keys of a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.utils import timezone

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand, find_project
from kasbah.identity.models import ApiKey, Tenant


class Command(TenantCommand):
    """`manage.py keys`."""

    help = "List the API keys of a tenant, newest first, and what each may be used for. No secret is shown."
    epilog = "Example: manage.py keys --tenant finance --project letters"
    empty = "There is no key. Issue one with: manage.py createkey --help"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--project", metavar="SLUG", help="Those of one project.")
        parser.add_argument("--all", action="store_true", help="Those too that are revoked or have expired.")

    def act(self, tenant: Tenant, **options: Any) -> Sequence[Facts]:
        """Those that can be used, or all."""
        rows = ApiKey.objects.filter(tenant=tenant).select_related("project", "created_by").order_by("-id")
        if options["project"]:
            rows = rows.filter(project=find_project(tenant, options["project"]))
        return [line(key) for key in rows if options["all"] or state(key) == "in use"]


def state(key: ApiKey) -> str:
    """Whether it can be used."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= timezone.now() else "in use"


def line(key: ApiKey) -> Facts:
    """What is shown of one."""
    return {
        "name": key.name,
        "project": key.project.slug,
        "begins": key.prefix,
        "state": state(key),
        "scopes": key.scopes,
        "of": key.created_by.email if key.created_by and not key.service_account else "service account",
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "id": key.id,
    }
