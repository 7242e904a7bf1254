"""What draining, cordoning or losing a site or a worker would leave: the matrix before beside the matrix after.

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
from kasbah.serving.services.matrix import CLASSES, Cell, TenantPolicy, cells, load_tenant
from kasbah.serving.services.offering import Offering, load_offering

MOST_SITUATIONS = 200  # of one tenant


class Effect(StrEnum):
    """What would be missing."""

    NO_COMPLIANT_SITE = "no_compliant_site"  # none serves the model any more where the policy allows it: 403 or 503
    NO_LIVE_SITE = "no_live_site"  # a compliant site serves it, but no worker is ready there: 503


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
    """The cells of both, compared line by line."""
    then = _lines(known, situation, after)
    for (data_class, model), line in _lines(known, situation, before).items():
        left = then[data_class, model]
        if line.compliant and not left.compliant:
            effect = Effect.NO_COMPLIANT_SITE
        elif line.live and not left.live:
            effect = Effect.NO_LIVE_SITE
        else:
            continue
        yield Loss(known.tenant.slug, data_class, model, situation, effect, line.compliant, left.compliant)


@dataclass(frozen=True, slots=True)
class _Line:
    """The cells of one class and model: slugs of the sites that may and serve, and whether a worker is ready there."""

    compliant: tuple[str, ...]
    live: bool


def _lines(known: TenantPolicy, situation: Situation, offering: Offering) -> dict[tuple[str, str], _Line]:
    question = Question(
        tenant=known.tenant.id,
        data_class="",
        model="",
        sites=offering.sites,
        tags=situation.tags,
        purpose=situation.purpose,
        project=situation.project,
        at=int(timezone.now().timestamp()),
    )
    models = [offered for offered in offering.deployments if known.may_use(offered)]
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells(known.compiled, question, CLASSES, models):
        found.setdefault((cell.data_class, cell.model), []).append(cell)
    return {
        name: _Line(
            tuple(cell.site for cell in line if cell.allowed and cell.served),
            any(cell.allowed and cell.up for cell in line),
        )
        for name, line in found.items()
    }


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
