"""From a Celery message to a job on the event loop, or to a refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from celery.exceptions import Reject
from redis.exceptions import RedisError

from inference_worker.engine.fleet import Fleet
from inference_worker.store import StoreAway
from inference_worker.stream.job import Job, Site, Target
from inference_worker.stream.leases import Leases
from inference_worker.tasks.gate import Admitted, Gate, NotReady, Refused

log = logging.getLogger(__name__)

PAUSE = 0.05  # seconds before a message goes back, so that it does not run in circles until its queue is left


class Intake:
    """Takes messages in. `refuse` reports a refusal; all of it runs on the event loop."""

    def __init__(self, gate: Gate, fleet: Fleet, leases: Leases, site: Site, refuse: Callable[[Refused], None]) -> None:
        self._gate, self._fleet, self._leases, self._site, self._refuse = gate, fleet, leases, site, refuse

    async def take(self, message: Any) -> None:
        """Body of the task `kasbah.infer`; ends with the job. Raises Reject to put the message back."""
        try:
            admitted = self._gate.admit(message)
        except Refused as refused:
            self._refuse(refused)
        except NotReady as error:
            await asyncio.sleep(PAUSE)
            raise Reject("the engine is not ready", requeue=True) from error
        else:
            try:
                await self._run(admitted)
            finally:
                self._gate.end(admitted)

    async def _run(self, admitted: Admitted) -> None:
        engine = self._fleet.find(admitted.ticket.deployment)
        if engine is None or engine.client is None or engine.grammars is None:
            raise RuntimeError("an engine was ready when the job was admitted, and is not there")
        target = Target(
            engine.client, engine.grammars, engine.assigned.name, engine.digest, engine.version, engine.doubt
        )
        job = Job(self._site, target, admitted.ticket, admitted.message, admitted.payload)
        engine.begin_job()
        try:
            if await job.claim():
                self._leases.add(job)
                await job.run()
        except (StoreAway, RedisError) as error:
            log.warning("job %s could not be claimed: %s", job.id, type(error).__name__)
        finally:
            self._leases.discard(job)
            engine.end_job()
