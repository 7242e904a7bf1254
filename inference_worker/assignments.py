"""What the control plane wants of this worker, read each second; only what it signed, and nothing older than before."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from inference_worker.contract import keys
from inference_worker.contract.bounds import line
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
        self._notices: list[str] = []
        self.trouble = ""  # why the last assignment is not followed

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
            if isinstance(token, bytes):
                if token != self._token:
                    self._token = token
                    self._take_apart(token)
                self._read_at = asked
            await asyncio.sleep(INTERVAL)

    def _take_apart(self, token: bytes) -> None:
        """Take one; whatever it holds, the worker goes on with what it was told before."""
        try:
            self.take(token.decode("ascii", "replace"))
        except Exception:
            log.exception("an assignment could not be followed")
            self.trouble = "an assignment could not be followed; its log says why"

    def take(self, token: str) -> None:
        """Check an assignment and follow it; what is forged, for another worker or older is refused."""
        try:
            assignment = self._checked(token)
        except BadToken as error:
            log.error("an assignment was refused: %s", error)  # noqa: TRY400 - the reason is the message
            self.trouble = line(f"an assignment was refused: {error}")
            return
        self.trouble = ""
        self._seen = SeenAssignment(assignment.revision, assignment.issued)
        self._state.see_assignment(self._seen)
        self._tell(assignment.notices)
        self._follow(assignment)

    def _checked(self, token: str) -> Assignment:
        """Raises BadToken."""
        assignment = checked(self._identity.control, Purpose.ASSIGNMENT, token, Assignment)
        if assignment.worker != self._identity.worker:
            raise BadToken("it is for another worker")
        if (assignment.revision, assignment.issued) < (self._seen.revision, self._seen.issued):
            raise BadToken(f"revision {assignment.revision} is older than {self._seen.revision}")
        return assignment

    def _tell(self, notices: list[str]) -> None:
        """Log what the control plane finds wrong with this worker, once a change."""
        for notice in notices:
            if notice not in self._notices:
                log.error("the control plane says of this worker: %s", line(notice))
        if self._notices and not notices:
            log.info("the control plane finds nothing wrong with this worker any more")
        self._notices = notices
