"""What the tenant's policy would decide, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.utils import timezone

from kasbah.common import rls
from kasbah.identity.models import Project, Tenant
from kasbah.residency.classification.raising import raised
from kasbah.residency.decision import Question, because, decide_raised
from kasbah.residency.models import Site, SiteState
from kasbah.residency.services.loaders import policy_in_force


@dataclass(frozen=True, slots=True)
class SiteReason:
    """Why a site is in or out; `site` is its slug."""

    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision in words; `sites` are slugs. Without an active policy or baseline their fields are None.

    `declared_class` and `denied_as` are of a request that a finding raises (see Decision); else None and empty.
    """

    allowed: bool
    sites: tuple[str, ...]
    rule: str
    policy: UUID | None
    policy_version: int | None
    baseline_version: int | None
    data_class: str
    declared_class: str | None
    denied_as: tuple[str, ...]
    reasons: tuple[SiteReason, ...]


def explain(
    tenant: Tenant,
    *,
    data_class: str,
    model: str,
    tags: Sequence[str] = (),
    purpose: str = "",
    project: str = "",
    at: datetime | None = None,
    found: bool = False,
) -> Explanation:
    """What the tenant's active policy would decide if the model were served at every site. It reads only.

    `project` is the id or the slug of one; `at` is when it would be asked, None now; `found` whether the
    policy's classifier, where it has one, finds something in the text. Raises Unavailable.
    """
    with rls.tenant_scope(tenant.id):
        policy = policy_in_force(tenant.id)
        named = Project.objects.filter(tenant_id=tenant.id, slug=project).first()
    sites = tuple(site.fact for site in Site.objects.exclude(state=SiteState.RETIRED).order_by("id"))
    question = Question(
        tenant=tenant.id,
        data_class=data_class,
        model=model,
        sites=sites,
        tags=tuple(tags),
        purpose=purpose,
        project=str(named.id) if named else project,
        at=int((at or timezone.now()).timestamp()),
    )
    seen = {"anything": 1} if found else {}
    decision = decide_raised(policy, question, raised(question, policy, seen) if policy else question)
    out = [SiteReason(item.slug, because(item.rule, item.reading)) for item in decision.reasons]
    slugs = {site.id: site.slug for site in sites}
    inside = [SiteReason(slugs[site], "compliant") for site in decision.sites]
    return Explanation(
        allowed=decision.allowed,
        sites=tuple(slugs[site] for site in decision.sites),
        rule=decision.rule,
        policy=UUID(decision.policy_id) if decision.policy_id else None,
        policy_version=decision.policy_version or None,
        baseline_version=decision.baseline_version or None,
        data_class=decision.data_class,
        declared_class=decision.declared_class or None,
        denied_as=decision.denied_as,
        reasons=(*inside, *out),
    )
