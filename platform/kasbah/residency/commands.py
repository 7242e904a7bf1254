"""What commands share that read policies."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError

from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.common.numbers import LARGEST_VERSION, number_argument, whole_number
from kasbah.common.times import time_argument
from kasbah.identity.commands import acting_person, command_actor, find_tenant
from kasbah.identity.models import Tenant
from kasbah.identity.services import Actor
from kasbah.residency import services, text
from kasbah.residency.models import BaselinePolicy, Policy, PolicyVersion
from kasbah.residency.services.shelves import Version


class PolicyCommand(KasbahCommand):
    """A command about the versions of `--tenant`'s policy or of the `--baseline`; subclasses give `act`."""

    def arguments(self, parser: ArgumentParser) -> None:
        """Whose; subclasses add theirs after calling this."""
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--tenant", metavar="SLUG", help="Tenant whose policy it is.")
        whose.add_argument("--baseline", action="store_true", help="The platform's baseline instead.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """Find the tenant, then act in its scope."""
        slug = options.pop("tenant")
        if slug is None:
            return self.act(None, **options)
        tenant = find_tenant(slug)
        with rls.tenant_scope(tenant.id):
            return self.act(tenant, **options)

    def act(self, tenant: Tenant | None, **options: Any) -> Facts | Sequence[Facts]:
        """Do it; `tenant` None means the baseline."""
        raise NotImplementedError


class VersionCommand(PolicyCommand):
    """One that is about a version; subclasses give `step`."""

    def arguments(self, parser: ArgumentParser) -> None:
        """Which; subclasses add theirs after calling this."""
        super().arguments(parser)
        parser.add_argument(
            "--policy-version",
            required=True,
            type=number_argument(1, LARGEST_VERSION),
            metavar="NUMBER",
            help="Its version.",
        )

    def act(self, tenant: Tenant | None, **options: Any) -> Facts:
        """Find the version, then take the step."""
        return facts(self.step(find_version(tenant, options["policy_version"]), **options))

    def step(self, policy: PolicyVersion, **options: Any) -> PolicyVersion:
        """Do it."""
        raise NotImplementedError


def add_activation(parser: ArgumentParser) -> None:
    """Who asks for an activation, and from when it holds. A second person looks at it first: approvepolicy."""
    parser.add_argument("--by", metavar="EMAIL", help="In whose name; needed for what a second person must approve.")
    parser.add_argument(
        "--at",
        type=time_argument,
        metavar="TIME",
        help="From when on, such as 2027-01-01T00:00:00Z; else at once.",
    )


def activate(policy: Version, options: Mapping[str, Any]) -> Version:
    """Ask for it. Raises KasbahError, CommandError."""
    return services.request_activation(asker(options), policy, options["at"])


def asker(options: Mapping[str, Any]) -> Actor:
    """The person of `--by`, else the platform itself. Raises CommandError."""
    return acting_person(options["by"]) if options["by"] else command_actor()


def read_text(path: str) -> str:
    """What a file holds; `-` is standard input. Raises CommandError."""
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the name is what the person typed
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Cannot read {path}: {error}") from error


def read_document(path: str) -> dict[str, Any]:
    """The document in a YAML or JSON file. Raises CommandError, and PolicyInvalid with the line."""
    return text.parse(read_text(path))[0]


def facts(policy: PolicyVersion) -> dict[str, Any]:
    """What a command shows of a version."""
    return {
        "id": policy.id,
        "version": policy.version,
        "state": policy.state,
        "loosens": [found["message"] for found in policy.findings],
        "comparison": policy.comparison,
        "reason": policy.reason,
        "activate_at": policy.activate_at,
        "activated_at": policy.activated_at,
    }


def find_version(tenant: Tenant | None, number: int) -> Any:
    """A version of the tenant whose scope this is, or of the baseline. Raises CommandError."""
    versions = Policy.objects.filter(tenant=tenant) if tenant else BaselinePolicy.objects.all()
    found = versions.filter(version=number).first()
    if found is None:
        whose = f"Tenant {tenant.slug}" if tenant else "The baseline"
        raise CommandError(f"{whose} has no policy version {number}.")
    return found


def find_policy(tenant: Tenant, named: str) -> Policy:
    """A version of the tenant whose scope this is, by its id or number. Raises CommandError."""
    number = whole_number(named, 1, LARGEST_VERSION)
    try:
        chosen: dict[str, Any] = {"version": number} if number is not None else {"pk": UUID(named)}
    except ValueError as error:
        raise CommandError(f"--policy: {named!r} is neither an id nor a number.") from error
    found = Policy.objects.filter(tenant=tenant, **chosen).first()
    if found is None:
        raise CommandError(f"Tenant {tenant.slug} has no policy {named}.")
    return found
