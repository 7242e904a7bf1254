"""What the worker says of itself, signed: alive each second, a report every few, each refusal at once."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from inference_worker.contract import keys
from inference_worker.contract.bounds import line
from inference_worker.contract.egress import installed
from inference_worker.contract.messages import (
    EGRESS_SHOWN,
    SERVED_SHOWN,
    Egress,
    Hardware,
    Refusal,
    Report,
    now,
    signed,
)
from inference_worker.contract.signing import Purpose
from inference_worker.engine.fleet import Fleet
from inference_worker.identity import Identity
from inference_worker.store import Store, StoreAway
from inference_worker.tasks.gate import Refused

log = logging.getLogger(__name__)

INTERVAL = 1.0
REPORT_EVERY = 5  # intervals
REFUSAL_PATIENCE = 60.0


class Reporter:
    """Signs and sends reports. `state` is the worker's: that of its assignment, or "stopping"."""

    def __init__(self, store: Store, identity: Identity, fleet: Fleet, hardware: Hardware) -> None:
        self.state = "active"
        self.troubles: Callable[[], Iterable[str]] = tuple  # what else keeps the worker from working
        self.answered = 0
        self.refused = 0
        self.stale = 0
        self._store, self._identity, self._fleet, self._hardware = store, identity, fleet, hardware
        self._sequence = 0
        self._start = os.urandom(8).hex()
        self._under_way: set[asyncio.Task[None]] = set()

    def count_answer(self) -> None:
        """A job that was answered to its end; the control plane must have it on record."""
        self.answered += 1

    def count_stale(self) -> None:
        """A write that the fence refused."""
        self.stale += 1

    def refuse(self, refused: Refused) -> None:
        """Count and report a refusal."""
        self.refused += 1
        log.warning("refused job %s attempt %d: %s", refused.job[:64] or "?", refused.attempt, refused.code)
        refusal = Refusal(
            worker=self._identity.worker,
            site=self._identity.site,
            job=refused.job,
            attempt=refused.attempt,
            code=refused.code,
            time=now(),
        )
        token = signed(self._identity.signer, Purpose.REPORT, refusal)
        task = asyncio.create_task(self._send(keys.REFUSAL, token, REFUSAL_PATIENCE))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def run(self) -> None:
        """Report for ever."""
        while True:
            await self.report()
            await asyncio.sleep(INTERVAL)

    async def report(self) -> None:
        """One heartbeat; what cannot be delivered is dropped, since the next one says more."""
        token = self._token()
        try:
            await self._store.send("SET", keys.worker(self._identity.worker), token, "EX", keys.WORKER_TTL)
        except (StoreAway, RedisError):
            return
        if self._sequence % REPORT_EVERY == 1:
            await self._send(keys.REPORT, token, 2.0)

    async def leave(self) -> None:
        """The worker is gone: its liveness key goes at once instead of by its time to live."""
        try:
            await self._store.send("DEL", keys.worker(self._identity.worker))
        except (StoreAway, RedisError):
            return

    def _token(self) -> str:
        self._sequence += 1
        refused = self._egress()
        report = Report(
            worker=self._identity.worker,
            site=self._identity.site,
            sequence=self._sequence,
            time=now(),
            state=self.state,
            served=self._fleet.served()[:SERVED_SHOWN],
            hardware=self._hardware,
            engine=self._fleet.version,
            start=self._start,
            answered=self.answered,
            refused=self.refused,
            stale=self.stale,
            egress_refused=sum(each.count for each in refused),
            egress=refused[:EGRESS_SHOWN],
            trusts=self._identity.control.key_ids,
            opens=sorted(self._identity.site_keys),
            trouble=line("; ".join(each for each in self.troubles() if each)),
        )
        return signed(self._identity.signer, Purpose.REPORT, report)

    def _egress(self) -> list[Egress]:
        """What guards refused to this process and to its engines, the latest first."""
        guard = installed()
        found = {"worker": guard.attempts() if guard else [], "engine": self._fleet.refused()}
        attempts = [
            Egress(
                process=of, destination=each.destination, count=each.count, first=int(each.first), last=int(each.last)
            )
            for of, several in found.items()
            for each in several
        ]
        return sorted(attempts, key=lambda each: each.last, reverse=True)

    async def _send(self, kind: str, token: str, patience: float) -> None:
        command = ("XADD", keys.REPORTS, "MAXLEN", "~", keys.REPORTS_MAXLEN, "*", kind, token)
        try:
            await self._store.send(*command, patience=patience)
        except (StoreAway, RedisError) as error:
            log.warning("a report could not be sent: %s", type(error).__name__)
