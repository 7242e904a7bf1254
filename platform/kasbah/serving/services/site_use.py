"""What of this app still needs a site, asked before it is retired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kasbah.residency.models import Site, SiteHealth
from kasbah.residency.services.health import GONE
from kasbah.serving.models import Deployment, Job, JobState, Worker, WorkerState

SHOWN = 5


def needs_of(site: Site) -> Iterator[str]:
    """In words, with the way out. In the platform's scope."""
    if served := list(
        Deployment.objects.filter(enabled=True, sites=site).order_by("name").values_list("name", flat=True)
    ):
        yield f"disable these deployments or take them from it: {_shown(served)}"
    workers = Worker.objects.filter(site=site).exclude(state=WorkerState.REVOKED).order_by("name")
    if names := list(workers.values_list("name", flat=True)):
        yield f"revoke these workers: {_shown(names)}"
    gone = SiteHealth.objects.filter(site=site, life__in=GONE).exists()
    running = Job.objects.filter(site=site, state__in=[JobState.QUEUED, JobState.RUNNING]).count()
    if running and not gone:  # of a site that is gone nobody would ever end them
        yield f"{running} jobs there have not ended; wait for them"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
