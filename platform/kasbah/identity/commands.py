"""What commands share that act in a tenant: as whom they act, and how a tenant, project or user is named."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand, operator
from kasbah.common.references import by_reference
from kasbah.identity.models import Project, Tenant, User
from kasbah.identity.services import Actor, actor_of_user, system


def command_actor() -> Actor:
    """Whoever runs commands holds the installation's secrets, so he acts as the platform's administrator."""
    return system(f"command:{operator()}", "command")


class TenantCommand(KasbahCommand):
    """A command that takes `--tenant` and runs inside that tenant's scope; subclasses give `act`."""

    def arguments(self, parser: ArgumentParser) -> None:
        """The tenant; subclasses add theirs after calling this."""
        parser.add_argument("--tenant", required=True, metavar="SLUG", help="Tenant to act in.")

    def run(self, **options: Any) -> Facts | Sequence[Facts] | str:
        """Find the tenant, then act in its scope."""
        tenant = find_tenant(options.pop("tenant"))
        with rls.tenant_scope(tenant.id):
            return self.act(tenant, **options)

    def act(self, tenant: Tenant, **options: Any) -> Facts | Sequence[Facts] | str:
        """Do it."""
        raise NotImplementedError


def find_tenant(slug: str) -> Tenant:
    """The tenant. Raises CommandError that names those that exist."""
    with rls.platform_scope():
        found: Tenant | None = by_reference(Tenant.objects.all(), slug, "slug")
        if found is None:
            known = ", ".join(Tenant.objects.order_by("slug").values_list("slug", flat=True)[:20])
            raise CommandError(f"There is no tenant {slug!r}. Known: {known or 'none; make one with createtenant'}.")
    return found


def find_project(tenant: Tenant, slug: str) -> Project:
    """A project of the tenant whose scope this is. Raises CommandError."""
    found: Project | None = by_reference(Project.objects.filter(tenant=tenant), slug, "slug")
    if found is None:
        known = ", ".join(Project.objects.filter(tenant=tenant).order_by("slug").values_list("slug", flat=True)[:20])
        raise CommandError(f"Tenant {tenant.slug} has no project {slug!r}. Known: {known or 'none'}.")
    return found


def find_user(email: str) -> User:
    """The user. Raises CommandError."""
    found: User | None = by_reference(User.objects.all(), email.strip().lower(), "email")
    if found is None:
        raise CommandError(f"There is no user {email!r}. Make one with: manage.py createuser --email {email}")
    return found


def required(options: Mapping[str, Any], name: str) -> str:
    """An option that what is done now cannot do without. Raises CommandError."""
    value = options[name]
    if not value:
        raise CommandError(f"--{name.replace('_', '-')}: give it; it is shown with what you look at.")
    return str(value)


def acting_person(email: str) -> Actor:
    """The person in whose name something is done that takes a person; the event says that a command did it.

    Raises CommandError.
    """
    found = find_user(email)
    if not found.is_active:
        raise CommandError(f"The account {email} is switched off; nothing is done in its name.")
    return actor_of_user(found, "command")
