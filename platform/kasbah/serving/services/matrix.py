"""The matrix: for a tenant, which data class may be processed by which model at which site, and by which rule.

Each cell is an answer of `decide`, the function that decides requests: there is no second reading of the rules here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from django.utils import timezone

from kasbah.common import rls
from kasbah.common.errors import Invalid, NotFound, Unavailable
from kasbah.identity.models import DataClass, Project, Tenant
from kasbah.residency.models import Policy, PolicyState
from kasbah.residency.services import (
    CompiledPolicy,
    Decision,
    PolicyInvalid,
    Question,
    SiteFact,
    candidate,
    decide,
    policy_in_force,
)
from kasbah.serving.models import DeploymentGrant
from kasbah.serving.services.offering import Offered, Offering, load_offering

CLASSES: tuple[str, ...] = tuple(DataClass.values)
MOST_CELLS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the cells are asked about beside class, model and site. `project` is a slug or an id; `at` None: now."""

    data_classes: tuple[str, ...] = CLASSES
    tags: tuple[str, ...] = ()
    purpose: str = ""
    project: str = ""
    at: datetime | None = None
    every_model: bool = False  # else those that the tenant may use


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer. `site` is a slug. `served`: the model is deployed there and the site takes jobs; `up`: and a
    worker is ready now.

    `rule` is the rule behind the answer; `allowed` says nothing about `up`.
    """

    data_class: str
    model: str
    site: str
    jurisdiction: str
    allowed: bool
    rule: str
    served: bool
    up: bool


@dataclass(frozen=True, slots=True)
class Matrix:
    """The cells of one tenant, by class, model and site; `problem` says why a policy could not be used."""

    tenant: Tenant
    policy: Policy | None
    baseline_version: int
    asked: Asked
    at: datetime
    cells: tuple[Cell, ...]
    problem: str = ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """For a table; see COLUMNS."""
        for cell in self.cells:
            yield {
                "tenant": self.tenant.slug,
                "policy_version": self.policy.version if self.policy else None,
                **{name: getattr(cell, name) for name in CELL},
            }


CELL = ("data_class", "model", "site", "jurisdiction", "allowed", "rule", "served", "up")
COLUMNS = ("tenant", "policy_version", *CELL)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """A tenant's policy, ready to decide (None denies everything), and the deployments that the tenant may use."""

    tenant: Tenant
    policy: Policy | None
    compiled: CompiledPolicy | None
    granted: frozenset[Any]
    problem: str = ""

    @property
    def baseline_version(self) -> int:
        """Of the platform's baseline that it is bound by; 0 for none."""
        baseline = self.compiled.baseline if self.compiled is not None else None
        return baseline.version if baseline is not None else 0

    def may_use(self, offered: Offered) -> bool:
        """Whether the model exists for this tenant."""
        return offered.id in self.granted


def tenant_matrix(
    tenant: Tenant, asked: Asked | None = None, policy: Policy | None = None, offering: Offering | None = None
) -> Matrix:
    """The matrix of the tenant's active policy, or of the version that is given. It reads only.

    Raises Invalid for a project that is not the tenant's and for too many cells, NotFound for a foreign policy.
    """
    asked = asked or Asked()
    offering = offering or load_offering()
    known = load_tenant(tenant, policy)
    at = asked.at or timezone.now()
    question = Question(
        tenant=tenant.id,
        data_class="",
        model="",
        sites=offering.sites,
        tags=asked.tags,
        purpose=asked.purpose,
        project=_project(tenant, asked.project),
        at=int(at.timestamp()),
    )
    models = [offered for offered in offering.deployments if asked.every_model or known.may_use(offered)]
    if len(asked.data_classes) * len(models) * len(offering.sites) > MOST_CELLS:
        raise Invalid(f"The matrix would have over {MOST_CELLS} cells; name one class.", param="data_class")
    return Matrix(
        tenant=tenant,
        policy=known.policy,
        baseline_version=known.baseline_version,
        asked=asked,
        at=at,
        cells=tuple(cells(known.compiled, question, asked.data_classes, models)),
        problem=known.problem,
    )


def lines(
    policy: CompiledPolicy | None, question: Question, data_classes: Sequence[str], models: Sequence[Offered]
) -> Iterator[tuple[Offered, Question, Decision]]:
    """One question for each class and model, about all sites at once; pure."""
    for data_class in data_classes:
        for offered in models:
            asked = msgspec.structs.replace(question, data_class=data_class, model=offered.name)
            yield offered, asked, decide(policy, asked)


def cells(
    policy: CompiledPolicy | None, question: Question, data_classes: Sequence[str], models: Sequence[Offered]
) -> Iterator[Cell]:
    """The lines, cell by cell."""
    for offered, asked, decision in lines(policy, question, data_classes, models):
        rules = _rules(policy, asked, decision)
        for site in asked.sites:
            yield Cell(
                data_class=asked.data_class,
                model=offered.name,
                site=site.slug,
                jurisdiction=site.jurisdiction,
                allowed=site.id in decision.sites,
                rule=rules[site],
                served=site.id in offered.sites,
                up=offered.up(site.id),
            )


def _rules(policy: CompiledPolicy | None, question: Question, decision: Decision) -> dict[SiteFact, str]:
    """The rule behind each site's answer. A decision names the rule that allows the first site: the others are asked
    about by themselves."""
    excluded = {item.site: item.rule for item in decision.reasons}
    found: dict[SiteFact, str] = {}
    for site in question.sites:
        if site.id in excluded:
            found[site] = excluded[site.id]
        elif site.id == decision.sites[0]:
            found[site] = decision.rule
        else:
            found[site] = decide(policy, msgspec.structs.replace(question, sites=(site,))).rule
    return found


def load_tenant(tenant: Tenant, policy: Policy | None = None) -> TenantPolicy:
    """The tenant's active policy or the version that is given, and its grants. Raises NotFound."""
    if policy is not None and policy.tenant_id != tenant.id:
        raise NotFound("There is no such policy.")
    with rls.tenant_scope(tenant.id):
        granted = frozenset(DeploymentGrant.objects.filter(tenant_id=tenant.id).values_list("deployment_id", flat=True))
        chosen = policy or Policy.objects.filter(tenant_id=tenant.id, state=PolicyState.ACTIVE).first()
        if chosen is None:
            return TenantPolicy(tenant, None, None, granted)
        try:
            if policy is None:
                ready = policy_in_force(tenant.id)
            else:
                ready = candidate(tenant.id, policy.document, policy_id=str(policy.id), version=policy.version)
        except (PolicyInvalid, Unavailable) as error:
            return TenantPolicy(tenant, chosen, None, granted, error.message)
    return TenantPolicy(tenant, chosen, ready, granted)


def _project(tenant: Tenant, named: str) -> str:
    """The project's id. Raises Invalid."""
    if not named:
        return ""
    with rls.tenant_scope(tenant.id):
        for project in Project.objects.filter(tenant_id=tenant.id).only("id", "slug"):
            if named in (project.slug, str(project.id)):
                return str(project.id)
    raise Invalid("There is no such project in this tenant.", param="project")
