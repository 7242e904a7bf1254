"""Which attempts were admitted, for as long as their tickets could be used again."""

from __future__ import annotations

BUCKET = 60  # seconds


class Seen:
    """Attempts that run, and those whose ticket has not expired.

    A ticket that comes again has the same expiry, so those of one minute are kept and forgotten together; of each only
    64 bits of a keyed hash remain (Python's SipHash, whose key differs in each process): some 80 bytes an attempt.
    """

    def __init__(self) -> None:
        self._running: set[tuple[str, int]] = set()
        self._buckets: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def has(self, job: str, attempt: int, expires: int) -> bool:
        """Whether it was added before and may not run again."""
        attempted = job, attempt
        return attempted in self._running or hash(attempted) in self._buckets.get(expires // BUCKET, ())

    def add(self, job: str, attempt: int, expires: int, now: int) -> None:
        """It runs from now on."""
        for bucket in [bucket for bucket in self._buckets if (bucket + 1) * BUCKET < now]:
            del self._buckets[bucket]
        self._running.add((job, attempt))
        self._buckets.setdefault(expires // BUCKET, set()).add(hash((job, attempt)))

    def forget(self, job: str, attempt: int, expires: int) -> None:
        """It did not run, and may come again."""
        self._buckets.get(expires // BUCKET, set()).discard(hash((job, attempt)))

    def end(self, job: str, attempt: int) -> None:
        """It runs no more."""
        self._running.discard((job, attempt))
