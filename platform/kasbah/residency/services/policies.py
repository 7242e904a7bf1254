"""Versions of a tenant's residency policy: drafted, activated, superseded; none is ever changed or deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Max
from django.utils import timezone

from inference_worker.contract import canonical
from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls
from kasbah.common.errors import Conflict, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import Project, Tenant
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.compiled import compile_policy
from kasbah.residency.decision import Question, SiteFact, because, decide
from kasbah.residency.document import ALL, PolicyInvalid, Problem, validate
from kasbah.residency.models import Policy, PolicyState, Site

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"


def create_policy(actor: Actor, tenant: Tenant, document: Mapping[str, Any]) -> Policy:
    """A new version, as a draft. Raises NotFound, Forbidden, PolicyInvalid."""
    require(actor, Permission.POLICY_MANAGE, tenant)
    if problems := validate(document):
        raise PolicyInvalid(problems)
    with rls.tenant_scope(tenant.id):
        _lock(tenant.id)
        last = Policy.objects.filter(tenant_id=tenant.id).aggregate(last=Max("version"))["last"] or 0
        policy = Policy.objects.create(
            tenant_id=tenant.id, version=last + 1, document=document, created_by_id=actor.user_id
        )
        record(_event(EventType.POLICY_CREATED, actor, policy))
    return policy


def activate_policy(actor: Actor, policy: Policy) -> Policy:
    """Make a draft the version that decides; the one before is superseded. To go back, draft its document again.

    Raises NotFound, Forbidden, Conflict, and PolicyInvalid with every problem.
    """
    require(actor, Permission.POLICY_MANAGE, policy.tenant_id)
    with rls.tenant_scope(policy.tenant_id):
        _lock(policy.tenant_id)
        draft = Policy.objects.filter(tenant_id=policy.tenant_id, pk=policy.pk).first()
        if draft is None:
            raise NotFound("There is no such policy.")
        active = Policy.objects.filter(tenant_id=policy.tenant_id, state=PolicyState.ACTIVE).first()
        _check_turn(draft, active)
        if problems := validate(draft.document) or _strangers(draft):
            raise PolicyInvalid(problems)
        if active is not None:
            active.state = PolicyState.SUPERSEDED
            active.save(update_fields=["state"])
        draft.state, draft.activated_at = PolicyState.ACTIVE, timezone.now()
        draft.save(update_fields=["state", "activated_at"])
        record(_event(EventType.POLICY_ACTIVATED, actor, draft, superseded=active.version if active else 0))
    return draft


def _check_turn(draft: Policy, active: Policy | None) -> None:
    if draft.state != PolicyState.DRAFT:
        raise Conflict(
            f"Version {draft.version} is {draft.state}; to use its document again, make a new version of it."
        )
    if active is not None and active.version > draft.version:
        raise Conflict(f"The later version {active.version} is active; make a new version of this document instead.")


@dataclass(frozen=True, slots=True)
class SiteReason:
    """Why a site is in or out; `site` is its slug."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision in words; `sites` are slugs. Without an active policy `policy` and `policy_version` are None."""

    allowed: bool
    sites: tuple[str, ...]
    rule: str
    policy: UUID | None
    policy_version: int | None
    data_class: str
    reasons: tuple[SiteReason, ...]


def explain(
    tenant: Tenant, *, data_class: str, model: str, tags: Sequence[str] = (), purpose: str = "", project: str = ""
) -> Explanation:
    """What the tenant's active policy would decide if the model were served at every site. It reads only.

    `project` is the id or the slug of one.
    """
    with rls.tenant_scope(tenant.id):
        active = Policy.objects.filter(tenant_id=tenant.id, state=PolicyState.ACTIVE).first()
        named = Project.objects.filter(tenant_id=tenant.id, slug=project).first()
    sites = tuple(SiteFact(site.id, site.slug, site.jurisdiction) for site in Site.objects.all())
    compiled = None
    if active is not None:
        compiled = compile_policy(active.document, tenant=tenant.id, policy_id=str(active.id), version=active.version)
    decision = decide(
        compiled,
        Question(
            tenant=tenant.id,
            data_class=data_class,
            model=model,
            sites=sites,
            tags=tuple(tags),
            purpose=purpose,
            project=str(named.id) if named else project,
        ),
    )
    out = [SiteReason(item.slug, because(item.rule)) for item in decision.reasons]
    slugs = {site.id: site.slug for site in sites}
    inside = [SiteReason(slugs[site], "compliant") for site in decision.sites]
    return Explanation(
        allowed=decision.allowed,
        sites=tuple(slugs[site] for site in decision.sites),
        rule=decision.rule,
        policy=active.id if active else None,
        policy_version=active.version if active else None,
        data_class=decision.data_class,
        reasons=(*inside, *out),
    )


def _strangers(policy: Policy) -> list[Problem]:
    """A name that nothing has is a slip of the pen: in a rule that denies it would deny nothing."""
    projects = Project.objects.filter(tenant_id=policy.tenant_id).values_list("id", flat=True)
    known = {
        "sites": {ALL, *Site.objects.values_list("slug", flat=True)},
        "projects": {str(project) for project in projects},
    }
    return [
        Problem(f"/rules/{index}/{field}/{place}", f"there is no {field.removesuffix('s')} {name}")
        for index, rule in enumerate(policy.document["rules"])
        for field, names in known.items()
        for place, name in enumerate(rule.get(field, []))
        if name not in names
    ]


def _lock(tenant_id: UUID) -> None:
    """One change of a tenant's policies at a time, until the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(LOCK, [f"kasbah.policy:{tenant_id}"])


def _event(kind: EventType, actor: Actor, policy: Policy, **details: Any) -> Event:
    digest = hashlib.sha256(canonical.dumps(policy.document)).hexdigest()
    return Event(
        type=kind,
        tenant_id=policy.tenant_id,
        actor=actor.ref,
        resource=Resource("policy", str(policy.id), digest),
        request_id=current(),
        details={"version": policy.version, **details},
    )
