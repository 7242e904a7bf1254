"""What is offered where, and what of it is up: sites that take jobs, enabled deployments, workers that are ready."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from kasbah.common import rls
from kasbah.residency.models import Site, SiteLife, SiteState
from kasbah.residency.services import SiteFact
from kasbah.serving.models import Deployment, Worker, WorkerState

AWAY = (SiteLife.LOST, SiteLife.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Offered:
    """A deployment: its public name, those of its sites that take jobs, and the ready workers at each."""

    id: UUID
    name: str
    sites: frozenset[UUID]
    ready: Mapping[UUID, frozenset[UUID]]  # site -> workers

    def up(self, site: UUID) -> bool:
        """Whether a worker of the site would take a job for it now."""
        return site in self.sites and bool(self.ready.get(site))


@dataclass(frozen=True, slots=True)
class Offering:
    """Everything of one moment: all sites, oldest first, and the enabled deployments by name."""

    sites: tuple[SiteFact, ...]
    deployments: tuple[Offered, ...]

    def without_site(self, site: UUID) -> Offering:
        """As if the site were cordoned, drained or lost."""
        return Offering(
            self.sites, tuple(replace(offered, sites=offered.sites - {site}) for offered in self.deployments)
        )

    def without_worker(self, worker: UUID) -> Offering:
        """As if this worker were cordoned, drained, revoked or lost."""
        return Offering(
            self.sites,
            tuple(
                replace(offered, ready={site: workers - {worker} for site, workers in offered.ready.items()})
                for offered in self.deployments
            ),
        )


def load_offering() -> Offering:
    """As the rows say now; none of them belongs to a tenant."""
    rows = list(Site.objects.exclude(state=SiteState.RETIRED).order_by("id"))
    open_sites = {site.id for site in rows if site.state == SiteState.ACTIVE}
    ready = _ready()
    return Offering(
        tuple(site.fact for site in rows),
        tuple(
            Offered(
                row.id, row.name, frozenset(site.id for site in row.sites.all()) & open_sites, ready.get(row.id, {})
            )
            for row in Deployment.objects.filter(enabled=True).prefetch_related("sites").order_by("name")
        ),
    )


def _ready() -> dict[UUID, dict[UUID, frozenset[UUID]]]:
    """For each deployment and site the workers that said lately that they serve it.

    Housekeeping marks workers that it no longer hears, and sites that it cannot reach: workers there may be well.
    """
    found: dict[UUID, dict[UUID, frozenset[UUID]]] = defaultdict(dict)
    with rls.platform_scope():
        heard = Worker.objects.filter(state=WorkerState.ENROLLED).exclude(site__health__life__in=AWAY)
        for worker in heard.only("id", "site_id", "served"):
            for served in worker.served:
                if served["state"] == "ready":
                    places = found[UUID(served["deployment"])]
                    places[worker.site_id] = places.get(worker.site_id, frozenset()) | {worker.id}
    return found
