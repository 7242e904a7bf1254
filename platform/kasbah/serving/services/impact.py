"""What draining, cordoning or losing a site or a worker would leave: the lines of the matrix, served now and then.

Asked are all situations that a tenant's rules tell apart, for data that carries a tag may go to fewer places than the
rest of its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, product

from django.utils import timezone

from kasbah.common import rls
from kasbah.identity.models import Tenant
from kasbah.residency.document import ALL, Rule
from kasbah.residency.models import Site
from kasbah.residency.services import CompiledPolicy, Question
from kasbah.serving.models import Worker
from kasbah.serving.services.matrix import CLASSES, TenantPolicy, lines, load_tenant
from kasbah.serving.services.offering import Offering, load_offering

MOST_SITUATIONS = 200  # of one tenant


class Effect(StrEnum):
    """What would be missing."""

    NO_COMPLIANT_SITE = "no_compliant_site"  # none that the policy allows serves the model any more
    NO_LIVE_SITE = "no_live_site"  # a compliant site serves it, but no worker is ready there


@dataclass(frozen=True, slots=True)
class Situation:
    """What a request says of itself beside class and model; `project` is an id."""

    tags: tuple[str, ...] = ()
    purpose: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """A tenant that would be left without, for one class and model. Sites are slugs."""

    tenant: str
    data_class: str
    model: str
    situation: Situation
    effect: Effect
    compliant: tuple[str, ...]  # that serve the model now
    left: tuple[str, ...]  # of those afterwards


@dataclass(frozen=True, slots=True)
class Impact:
    """All that would be lost. `tenants`: how many were looked at; `left_out`: tenants with too many situations."""

    losses: tuple[Loss, ...]
    tenants: int
    left_out: tuple[str, ...]


COLUMNS = ("tenant", "data_class", "model", "tags", "purpose", "project", "effect", "compliant", "left")


def site_impact(site: Site) -> Impact:
    """If the site took nothing more. It reads only, and shows tenants: for platform administrators."""
    before = load_offering()
    return impact(before, before.without_site(site.id))


def worker_impact(worker: Worker) -> Impact:
    """If the worker took nothing more. It reads only, and shows tenants: for platform administrators."""
    before = load_offering()
    return impact(before, before.without_worker(worker.id))


def impact(before: Offering, after: Offering) -> Impact:
    """For every active tenant, what is there before and not after."""
    with rls.platform_scope():
        tenants = list(Tenant.objects.filter(active=True).order_by("slug"))
    losses: list[Loss] = []
    left_out: list[str] = []
    for tenant in tenants:
        known = load_tenant(tenant)
        found = list(islice(situations(known.compiled), MOST_SITUATIONS + 1))
        if len(found) > MOST_SITUATIONS:
            left_out.append(tenant.slug)
            found.pop()
        for situation in found:
            losses += _losses(known, situation, before, after)
    return Impact(tuple(losses), len(tenants), tuple(left_out))


def situations(policy: CompiledPolicy | None) -> Iterator[Situation]:
    """The plain one, then each combination of tag, purpose and project that a rule names, once."""
    seen: set[Situation] = {Situation()}
    yield Situation()
    rules = [rule for document in policy.documents for rule in document.rules] if policy is not None else []
    for rule in rules:
        for situation in _of_rule(rule):
            if situation not in seen:
                seen.add(situation)
                yield situation


def _of_rule(rule: Rule) -> Iterator[Situation]:
    tags = tuple(tag for tag in rule.tags if tag != ALL)
    sets: list[tuple[str, ...]] = [(), *((tag,) for tag in tags)]
    if len(tags) > 1:
        sets.append(tags)
    purposes = ["", *(purpose for purpose in rule.purposes if purpose != ALL)]
    projects = ["", *(project for project in rule.projects if project != ALL)]
    return (Situation(*named) for named in product(sets, purposes, projects))


def _losses(known: TenantPolicy, situation: Situation, before: Offering, after: Offering) -> Iterator[Loss]:
    """The lines of the matrix, each with what serves it now and afterwards: what is allowed stays as it is."""
    question = Question(
        tenant=known.tenant.id,
        data_class="",
        model="",
        sites=before.sites,
        tags=situation.tags,
        purpose=situation.purpose,
        project=situation.project,
        at=int(timezone.now().timestamp()),
    )
    left = {offered.id: offered for offered in after.deployments}
    touched = [offered for offered in before.deployments if offered != left[offered.id] and known.may_use(offered)]
    slugs = {site.id: site.slug for site in before.sites}
    for offered, asked, decision in lines(known.compiled, question, CLASSES, touched):
        then = left[offered.id]
        compliant = tuple(slugs[site] for site in decision.sites if site in offered.sites)
        remaining = tuple(slugs[site] for site in decision.sites if site in then.sites)
        if compliant and not remaining:
            effect = Effect.NO_COMPLIANT_SITE
        elif any(map(offered.up, decision.sites)) and not any(map(then.up, decision.sites)):
            effect = Effect.NO_LIVE_SITE
        else:
            continue
        yield Loss(known.tenant.slug, asked.data_class, offered.name, situation, effect, compliant, remaining)


def rows(found: Impact) -> Iterator[dict[str, object]]:
    """For a table; see COLUMNS."""
    for loss in found.losses:
        yield {
            "tenant": loss.tenant,
            "data_class": loss.data_class,
            "model": loss.model,
            "tags": loss.situation.tags,
            "purpose": loss.situation.purpose,
            "project": loss.situation.project,
            "effect": loss.effect.value,
            "compliant": loss.compliant,
            "left": loss.left,
        }
