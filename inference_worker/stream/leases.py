"""The leases of all running jobs, renewed together: one call to the store every quarter of a second.

The same answer says that a client went away or that another attempt took over.
"""

from __future__ import annotations

import asyncio
import time

from redis.exceptions import RedisError

from inference_worker.contract import scripts
from inference_worker.store import Script, Store, StoreAway
from inference_worker.stream.job import LEASE, LEASE_MS, Job, Stop

INTERVAL = 0.25
AT_ONCE = 200  # jobs in one script: it must not hold the store for long
RENEW = Script(scripts.RENEW)


class Leases:
    """The jobs that run now."""

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._jobs: set[Job] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """It was claimed."""
        self._jobs.add(job)

    def discard(self, job: Job) -> None:
        """It ended."""
        self._jobs.discard(job)

    def stop_all(self, reason: Stop) -> None:
        """Stop every job."""
        for job in list(self._jobs):
            job.stop(reason)

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            started = time.monotonic()
            jobs = list(self._jobs)
            await asyncio.gather(*(self._renew(jobs[at : at + AT_ONCE]) for at in range(0, len(jobs), AT_ONCE)))
            now = time.monotonic()
            for job in jobs:
                if now - job.renewed > LEASE:
                    job.stop(Stop.LEASE_LOST)
            await asyncio.sleep(max(0.0, started + INTERVAL - now))

    async def _renew(self, jobs: list[Job]) -> None:
        sent = time.monotonic()
        command = RENEW.command([job.key for job in jobs], [self._worker, LEASE_MS, *(job.attempt for job in jobs)])
        try:
            answers = await self._store.call(lambda: command, patience=1.0)
        except (StoreAway, RedisError):
            return
        if not isinstance(answers, list) or len(answers) != len(jobs):
            return  # no answer of the script's: the leases run out if that goes on
        for job, answer in zip(jobs, answers, strict=True):
            if answer in (scripts.OK, scripts.CANCELLED):
                job.renewed = sent
            if job.ending or job not in self._jobs:
                continue  # it ended while it was asked for: "stale" means no more than that
            if answer == scripts.CANCELLED:
                job.stop(Stop.CANCELLED)
            elif answer == scripts.STALE:
                job.stop(Stop.STALE)
