"""The sites as housekeeping reaches them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kasbah.common import rls
from kasbah.residency.models import Site
from kasbah.residency.services import broker_url
from kasbah.serving.dispatch.store import SyncStore
from kasbah.serving.timings import timings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reached:
    """A site and its open store."""

    site: Site
    url: str
    store: SyncStore


def active_sites() -> list[Site]:
    """All sites in use."""
    with rls.platform_scope():
        return list(Site.objects.filter(active=True).order_by("slug"))


@contextmanager
def reach(site: Site) -> Iterator[Reached]:
    """The site's store, closed afterwards; commands raise StoreAway when it is away."""
    url = broker_url(site)
    store = SyncStore(url, timings().store_timeout)
    try:
        yield Reached(site, url, store)
    finally:
        store.close()
