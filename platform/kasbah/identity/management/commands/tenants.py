"""List the tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Q

from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.models import Tenant


class Command(KasbahCommand):
    """`manage.py tenants`."""

    help = "List the tenants, with how many projects, members and keys in use each has."
    epilog = "Example: manage.py tenants"
    empty = "There is no tenant. Make one with: manage.py createtenant --help"

    def run(self, **options: Any) -> Sequence[Facts]:
        """All of them, by name."""
        used = Q(api_keys__revoked_at=None)
        with rls.platform_scope():
            rows = Tenant.objects.annotate(
                project_count=Count("projects", distinct=True),
                member_count=Count("memberships", distinct=True),
                key_count=Count("api_keys", filter=used, distinct=True),
            )
            return [line(tenant) for tenant in rows.order_by("slug")]


def line(tenant: Any) -> Facts:
    """What is shown of one."""
    return {
        "slug": tenant.slug,
        "name": tenant.name,
        "active": tenant.active,
        "default_data_class": tenant.default_data_class,
        "projects": tenant.project_count,
        "members": tenant.member_count,
        "keys": tenant.key_count,
        "created_at": tenant.created_at,
        "id": tenant.id,
    }
