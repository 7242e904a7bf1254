"""What the guard refused to an engine, read from the journal that its processes write (launch.py)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from inference_worker.contract.egress import DESTINATIONS, LONGEST, OTHERS, UNSHOWN, Attempt


class Refusals:
    """Counts by destination, over all runs of an engine, into `attempts`, which several may share."""

    def __init__(self, attempts: dict[str, Attempt]) -> None:
        self._attempts = attempts
        self._journal: Path | None = None
        self._read = 0  # bytes of the journal

    def follow(self, journal: Path) -> None:
        """A new run writes to `journal`."""
        self._journal, self._read = journal, 0

    def look(self) -> None:
        """Take what was written since; an unfinished line waits. The engine is not trusted with the form of it."""
        if self._journal is None:
            return
        with contextlib.suppress(OSError), self._journal.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read(1 << 20).rpartition(b"\n")
            if whole:
                self._read += len(whole) + 1
                for line in whole.split(b"\n"):
                    self._count(UNSHOWN.sub("?", line.decode("ascii", "replace"))[-LONGEST:])

    def _count(self, destination: str) -> None:
        known = destination in self._attempts or len(self._attempts) < DESTINATIONS
        key, now = destination if known else OTHERS, time.time()
        attempt = self._attempts.setdefault(key, Attempt(key, 0, now, now))
        attempt.count, attempt.last = attempt.count + 1, now
