"""List the projects of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Q

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand
from kasbah.identity.models import Project, Tenant


class Command(TenantCommand):
    """`manage.py projects`."""

    help = "List the projects of a tenant, with how many keys in use each has."
    epilog = "Example: manage.py projects --tenant finance"
    empty = "This tenant has no project. Make one with: manage.py createproject --help"

    def act(self, tenant: Tenant, **options: Any) -> Sequence[Facts]:
        """All of them, by name."""
        used = Count("api_keys", filter=Q(api_keys__revoked_at=None))
        rows: Any = Project.objects.filter(tenant=tenant).annotate(key_count=used).order_by("slug")
        return [
            {
                "slug": project.slug,
                "name": project.name,
                "default_data_class": project.default_data_class,
                "keys": project.key_count,
                "created_at": project.created_at,
                "id": project.id,
            }
            for project in rows
        ]
