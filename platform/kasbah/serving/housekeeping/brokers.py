"""Whether the brokers that lie beside a store can be reached; a broker that is the store is asked with it."""

from __future__ import annotations

import time
from uuid import UUID

from kasbah.residency.services import OK
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.housekeeping.sites import Reached

EVERY = 5.0  # seconds between two connections to one broker

_found: dict[UUID, tuple[float, str]] = {}


def state(reached: Reached) -> str:
    """ "ok" or the class of the error, at most five seconds old."""
    publisher = reached.carrier.publisher
    if publisher is None:
        return OK
    asked_at, found = _found.get(reached.site.id, (float("-inf"), ""))
    if time.monotonic() - asked_at < EVERY:
        return found
    try:
        publisher.ping()
        found = OK
    except StoreAway as error:
        found = type(error.__cause__ or error).__name__
    _found[reached.site.id] = (time.monotonic(), found)
    return found
