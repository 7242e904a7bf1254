"""Whose versions they are: a tenant's, or the platform's baseline. All that differs between the two stands here.

Versions are compared without the baseline. Whatever turns from denied to allowed beneath a baseline does so in the
tenant's own document too, so nothing is missed; and what a tenant may do is settled before the baseline above it
is ever loosened.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from kasbah.audit.services import Event, EventType, Resource
from kasbah.common import rls
from kasbah.common.errors import Conflict, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import Project
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.document import ALL, PolicyInvalid, Problem, validate
from kasbah.residency.loosening import compare
from kasbah.residency.models import BaselinePolicy, Policy, PolicyState, PolicyVersion, Site, SiteState, intact

Version = TypeVar("Version", bound=PolicyVersion)
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a version would loosen, of which other version (0, "": of none), and whether a second person must agree."""

    findings: list[dict[str, Any]]
    needs_approval: bool
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """The versions of one tenant, or with None those of the baseline."""

    tenant_id: UUID | None

    @property
    def subject(self) -> str:
        """Its word in permissions and events."""
        return "policy" if self.tenant_id else "baseline"

    def require(self, actor: Actor, verb: Literal["manage", "approve"]) -> None:
        """Return when `actor` may. Raises NotFound, Forbidden."""
        require(actor, Permission(f"{self.subject}.{verb}"), self.tenant_id)

    def scope(self) -> AbstractContextManager[None]:
        """A transaction that may change these versions and record it."""
        return rls.tenant_scope(self.tenant_id) if self.tenant_id else rls.platform_scope()

    def lock(self) -> None:
        """One change of these versions at a time, until the end of the transaction."""
        with connection.cursor() as cursor:
            cursor.execute(LOCK, [f"kasbah.{self.subject}:{self.tenant_id or ''}"])

    @property
    def versions(self) -> QuerySet[Any]:
        """All of them."""
        if self.tenant_id:
            return Policy.objects.filter(tenant_id=self.tenant_id)
        return BaselinePolicy.objects.all()

    def active(self) -> Any:  # of the type of `versions`
        """The version that decides, or None."""
        return self.versions.filter(state=PolicyState.ACTIVE).first()

    def find(self, policy: Version) -> Version:
        """The row as it is now. Raises NotFound."""
        found: Version | None = self.versions.filter(pk=policy.pk).first()
        if found is None:
            raise NotFound("There is no such policy.")
        return found

    def new(self, **fields: Any) -> Any:
        """A version that is not saved yet."""
        return Policy(tenant_id=self.tenant_id, **fields) if self.tenant_id else BaselinePolicy(**fields)

    def compiled(self, policy: PolicyVersion) -> CompiledPolicy:
        """Ready to decide. Raises PolicyInvalid."""
        return compile_policy(policy.document, tenant=self.tenant_id, policy_id=str(policy.pk), version=policy.version)

    def compare(self, policy: PolicyVersion, active: PolicyVersion | None) -> Comparison:
        """What `policy` would loosen if it took the place of `active`. Raises PolicyInvalid for `policy`.

        An active version that cannot be read, or was altered, denies everything, so that all is loosened. The first
        baseline loosens nothing: without one everything is left to the tenants.
        """
        new, old = self.compiled(policy), None
        if active is None and self.tenant_id is None:
            return Comparison([], False, 0, "")
        if active is not None and intact(active.document, active.digest):
            with suppress(PolicyInvalid):
                old = self.compiled(active)
        sites = [site.fact for site in Site.objects.exclude(state=SiteState.RETIRED).order_by("id")]
        findings = [
            {"what": found.what, "message": found.message, "example": found.example}
            for found in compare(old, new, sites)
        ]
        always = old is not None and old.document.approval == "always"
        return Comparison(
            findings, bool(findings) or always, active.version if active else 0, active.digest if active else ""
        )

    def strangers(self, document: Mapping[str, Any]) -> list[Problem]:
        """A name that nothing has is a slip of the pen: in a rule that denies it would deny nothing."""
        known: dict[str, set[str]] = {
            "sites": {ALL, *Site.objects.values_list("slug", flat=True)},
            "zones": {ALL, *Site.objects.exclude(zone="").values_list("zone", flat=True)},
        }
        if self.tenant_id:
            projects = Project.objects.filter(tenant_id=self.tenant_id).values_list("id", flat=True)
            known["projects"] = {str(project) for project in projects}
        return [
            Problem(f"/rules/{index}/{field}/{place}", f"there is no {field.removesuffix('s')} {name}")
            for index, rule in enumerate(document["rules"])
            for field, names in known.items()
            for place, name in enumerate(rule.get(field, []))
            if name not in names
        ]

    def ready(self, policy: PolicyVersion) -> None:
        """Return when `policy` is as it was added and could decide. Raises Conflict, PolicyInvalid."""
        if not intact(policy.document, policy.digest):
            raise Conflict(
                f"The document of version {policy.version} was altered in the database after it was added; it cannot "
                "be activated. Look for who did that, and add the document again.",
                code="document_altered",
            )
        if problems := self.problems(policy.document) or self.strangers(policy.document):
            raise PolicyInvalid(problems)

    def problems(self, document: object) -> list[Problem]:
        """Everything that is wrong with a document, names apart."""
        found = validate(document)
        if self.tenant_id is None and not found and isinstance(document, Mapping):
            message = "the baseline holds for every tenant; a project belongs to one"
            found = [
                Problem(f"/rules/{index}/projects", message)
                for index, rule in enumerate(document["rules"])
                if "projects" in rule
            ]
        return found

    def event(self, verb: str, actor: Actor, policy: PolicyVersion, **details: Any) -> Event:
        """What is recorded of a step: `<subject>.<verb>`."""
        return Event(
            type=EventType(f"{self.subject}.{verb}"),
            tenant_id=self.tenant_id,
            actor=actor.ref,
            resource=Resource(self.subject, str(policy.pk), policy.digest),
            request_id=current(),
            details={"version": policy.version, **details},
        )


def shelf_of(policy: PolicyVersion) -> Shelf:
    """Where a version stands."""
    return Shelf(policy.tenant_id if isinstance(policy, Policy) else None)
