"""What the control plane wants of this worker, read each second; only what it signed, and nothing older than before."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from inference_worker.contract import keys
from inference_worker.contract.messages import Assignment, checked
from inference_worker.contract.signing import BadToken, Purpose
from inference_worker.identity import Identity, SeenAssignment, State
from inference_worker.store import Store, StoreAway

log = logging.getLogger(__name__)

INTERVAL = 1.0
FRESH = 4.0


class Assignments:
    """Follows the assignment; `follow` is called with each that is new, and with the current one after a start."""

    def __init__(self, store: Store, identity: Identity, state: State, follow: Callable[[Assignment], None]) -> None:
        self._store, self._identity, self._state, self._follow = store, identity, state, follow
        self._seen = state.seen_assignment()
        self._token: bytes | None = None
        self._read_at = float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether the store was asked within seconds what is wanted of this worker."""
        return time.monotonic() - self._read_at < FRESH

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                asked = time.monotonic()
                token = await self._store.send("GET", keys.assignment(self._identity.worker))
            except (StoreAway, RedisError):
                token = None  # the broker is away: what was assigned goes on
            if token is not None and token != self._token:
                self._token = token
                self.take(token.decode("ascii", "replace"))
            if token is not None:
                self._read_at = asked
            await asyncio.sleep(INTERVAL)

    def take(self, token: str) -> None:
        """Check an assignment and follow it; what is forged, for another worker or older is refused."""
        try:
            assignment = checked(self._identity.control, Purpose.ASSIGNMENT, token, Assignment)
        except BadToken as error:
            log.error("an assignment was refused: %s", error)  # noqa: TRY400 - the reason is the message
            return
        if assignment.worker != self._identity.worker:
            log.error("an assignment was refused: it is for another worker")
            return
        if (assignment.revision, assignment.issued) < (self._seen.revision, self._seen.issued):
            log.error(
                "an assignment was refused: revision %d is older than %d", assignment.revision, self._seen.revision
            )
            return
        self._seen = SeenAssignment(assignment.revision, assignment.issued)
        self._state.see_assignment(self._seen)
        self._follow(assignment)
