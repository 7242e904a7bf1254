"""List the versions of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kasbah.common.commands import Facts
from kasbah.identity.models import Tenant
from kasbah.residency.commands import PolicyCommand, facts
from kasbah.residency.models import BaselinePolicy, Policy


class Command(PolicyCommand):
    """`manage.py policies`."""

    help = "List the versions of a tenant's policy, or of the platform's baseline, newest first."
    epilog = "Example: manage.py policies --tenant finance"
    empty = "There is no version yet."

    def act(self, tenant: Tenant | None, **options: Any) -> Sequence[Facts]:
        """All of them."""
        versions = Policy.objects.filter(tenant=tenant) if tenant else BaselinePolicy.objects.all()
        return [facts(policy) for policy in versions.order_by("-version")]
