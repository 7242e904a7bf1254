"""The sites as housekeeping reaches them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from kasbah.common import rls
from kasbah.residency.models import Site, SiteState
from kasbah.residency.services import broker_url, store_url
from kasbah.serving.dispatch.carriers import SyncCarrier
from kasbah.serving.dispatch.store import SyncStore
from kasbah.serving.timings import timings

SOON = 4  # failures in a row from which on a site is asked less often
LONGEST_PAUSE = 15.0  # seconds


@dataclass(frozen=True, slots=True)
class Reached:
    """A site, its open store, and what carries offers to it."""

    site: Site
    store: SyncStore
    carrier: SyncCarrier


class SiteBackoff:
    """Sites whose stores do not answer are asked ever more seldom by this process: each question costs a time-out."""

    def __init__(self) -> None:
        self._failed: dict[UUID, tuple[int, float]] = {}  # how often in a row, and until when it is left alone

    def due(self, site: UUID) -> bool:
        """Whether to ask it now."""
        return time.monotonic() >= self._failed.get(site, (0, 0.0))[1]

    def failed(self, site: UUID) -> None:
        """It did not answer. The first few times it is asked again at once: most outages are short."""
        count = self._failed.get(site, (0, 0.0))[0] + 1
        pause = 0.0 if count < SOON else min(2.0 ** (count - SOON), LONGEST_PAUSE)
        self._failed[site] = count, time.monotonic() + pause

    def answered(self, site: UUID) -> None:
        """It is back."""
        self._failed.pop(site, None)


backoff = SiteBackoff()


def all_sites() -> list[Site]:
    """Every site that is not retired: one that takes no jobs still has workers to hear, and jobs to end."""
    with rls.platform_scope():
        return list(Site.objects.exclude(state=SiteState.RETIRED).order_by("slug"))


@contextmanager
def reach(site: Site) -> Iterator[Reached]:
    """The site's store and carrier, closed afterwards; commands raise StoreAway when it is away."""
    patience = timings().store_timeout
    store = SyncStore(store_url(site), patience)
    carrier = SyncCarrier(store, broker_url(site), store_url(site), patience)
    try:
        yield Reached(site, store, carrier)
    finally:
        carrier.close()
        store.close()
