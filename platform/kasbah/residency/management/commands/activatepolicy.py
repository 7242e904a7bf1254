"""Activate a draft of a tenant's residency policy."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts
from kasbah.identity.commands import TenantCommand, command_actor
from kasbah.identity.models import Tenant
from kasbah.residency import services
from kasbah.residency.commands import facts
from kasbah.residency.models import Policy


class Command(TenantCommand):
    """`manage.py activatepolicy`."""

    help = "Make a draft the policy that decides; the one before is kept as superseded."
    epilog = "Example: manage.py activatepolicy --tenant finance --policy-version 3"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--policy-version", required=True, type=int, metavar="NUMBER", help="Its version.")

    def act(self, tenant: Tenant, **options: Any) -> Facts:
        """Activate it."""
        policy = Policy.objects.filter(tenant=tenant, version=options["policy_version"]).first()
        if policy is None:
            raise CommandError(f"Tenant {tenant.slug} has no policy version {options['policy_version']}.")
        return facts(services.activate_policy(command_actor(), policy))
