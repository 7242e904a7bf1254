"""Who was refused at the door: told of in the log, and counted, so that nobody can fill a disk by knocking.

The first refusal of a kind is written within a second; the same again, from the same source at the same entrance, is
counted and told of with the next event, a minute later at the earliest. The source (an address, an actor) stands in
memory only. Writing is apart from the request: who is refused waits for no database.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from dataclasses import dataclass
from uuid import UUID

import psycopg

from kasbah.audit.services.events import ActorRef, Event, EventType, Outcome, Resource
from kasbah.audit.services.intake import StoredOtherwise, record_apart
from kasbah.common.requestid import current

TELL_EVERY = 60.0  # seconds between two events that tell of the same
FIRST_WRITE = 1.0
MOST = 200  # kinds that a process keeps apart; what comes beyond them is counted together
NOBODY = ActorRef("anonymous", "", "none")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Denial:
    """One kind: `entrance` as in kasbah.audit.classified, `reason` a stable code; no name, address or token."""

    kind: EventType
    entrance: str
    reason: str
    tenant_id: UUID | None = None
    actor: ActorRef = NOBODY


@dataclass(slots=True)
class _Count:
    pending: int = 0
    told: float = float("-inf")  # monotonic
    request_id: str = ""  # of the first that is pending


class Denials:
    """What this process refused."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Denial, str], _Count] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        """The parent tells of what it counted itself."""
        self._counts, self._lock, self._timer = {}, threading.Lock(), None

    def note(self, denial: Denial, source: str, request_id: str = "") -> None:
        """Count one. `source` keeps apart who knocks, and is never written."""
        with self._lock:
            key = (denial, source)
            if key not in self._counts and len(self._counts) >= MOST:
                key = (Denial(denial.kind, "others", "others"), "")
            count = self._counts.setdefault(key, _Count())
            count.request_id = count.request_id or request_id or current()
            count.pending += 1
            self._start(FIRST_WRITE)

    def _start(self, delay: float) -> None:
        if self._timer is None:
            self._timer = threading.Timer(delay, self._in_thread)
            self._timer.daemon = True
            self._timer.start()

    def _in_thread(self) -> None:
        with self._lock:
            self._timer = None
        self.write()
        with self._lock:
            if any(count.pending for count in self._counts.values()):
                self._start(FIRST_WRITE)

    def write(self, now: float | None = None) -> None:
        """Record what is due. What cannot be written stays counted."""
        now = time.monotonic() if now is None else now
        with self._lock:
            self._forget(now)
            due = {
                key: (count.pending, count.request_id)
                for key, count in self._counts.items()
                if count.pending and now - count.told >= TELL_EVERY
            }
        if not due:
            return
        try:
            record_apart(*(_event(denial, *said) for (denial, _), said in due.items()))
        except (psycopg.Error, StoredOtherwise) as error:
            logger.warning("Refusals are not on record yet (%s); it is tried again", type(error).__name__)
            return
        with self._lock:
            for key, (told, _) in due.items():
                self._counts[key] = _Count(self._counts[key].pending - told, now)

    def _forget(self, now: float) -> None:
        """What has not come again for a minute."""
        for key in [key for key, count in self._counts.items() if not count.pending and now - count.told > TELL_EVERY]:
            del self._counts[key]

    def end(self) -> None:
        """The process ends: what is pending is told of now."""
        self.write(float("inf"))


def _event(denial: Denial, count: int, request_id: str) -> Event:
    return Event(
        type=denial.kind,
        tenant_id=denial.tenant_id,
        actor=denial.actor,
        outcome=Outcome.DENIED,
        resource=Resource("entrance", denial.entrance),
        reason=denial.reason,
        request_id=request_id,
        details={"count": count},
    )


denials = Denials()
atexit.register(denials.end)
