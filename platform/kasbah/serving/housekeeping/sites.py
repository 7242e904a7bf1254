"""The sites as housekeeping reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kasbah.common import rls
from kasbah.residency.models import Site
from kasbah.residency.services import broker_url, store_url
from kasbah.serving.dispatch.carriers import SyncCarrier
from kasbah.serving.dispatch.store import SyncStore
from kasbah.serving.timings import timings


@dataclass(frozen=True, slots=True)
class Reached:
    """A site, its open store, and what carries offers to it."""

    site: Site
    store: SyncStore
    carrier: SyncCarrier


def all_sites() -> list[Site]:
    """Every site, in whatever state: one that takes no jobs still has workers to hear, and jobs to end."""
    with rls.platform_scope():
        return list(Site.objects.order_by("slug"))


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
