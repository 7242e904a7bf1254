"""The worker put together: one event loop that drives engines and streams, Celery beside it in a thread."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path

from inference_worker import hardware, store
from inference_worker.assignments import Assignments
from inference_worker.config import Settings
from inference_worker.contract import keys
from inference_worker.contract.messages import Assignment, Hardware
from inference_worker.engine.fleet import Fleet
from inference_worker.engine.supervisor import Means
from inference_worker.enrol import NotEnrolled, enrol
from inference_worker.identity import Identity, State
from inference_worker.keyring import KeyRing
from inference_worker.reports import Reporter
from inference_worker.store import Store
from inference_worker.stream import job
from inference_worker.stream.job import Site, Stop
from inference_worker.stream.leases import RENEW, Leases
from inference_worker.tasks.carrier import Carrier
from inference_worker.tasks.gate import Gate
from inference_worker.tasks.intake import Intake

log = logging.getLogger(__name__)

REVOKED = 3  # exit status
ENDING = 3.0  # seconds for stopped jobs to write their last frames


async def run(settings: Settings) -> int:
    """Enrol where needed, serve until told to stop; the exit status. Raises NotEnrolled, StateError."""
    state = State(settings.state_dir)
    with state.lock():
        identity = await _identity(settings, state)
        worker = Worker(settings, state, identity)
        return await worker.run()


async def _identity(settings: Settings, state: State) -> Identity:
    identity = state.load(settings.site)
    if identity is None:
        if not settings.token:
            raise NotEnrolled(
                f"{settings.state_dir} holds no identity yet: give --enrol TOKEN (KASBAH_ENROL_TOKEN);"
                " `manage.py enroltoken` on the control plane makes one"
            )
        redis = store.client(settings.store)
        try:
            await enrol(redis, state, token=settings.token, site=settings.site, name=settings.name)
        finally:
            await redis.aclose()
        identity = state.load(settings.site)
    if identity is None:
        raise NotEnrolled("the identity was not kept")
    log.info("worker %s (%s) of site %s", settings.name, identity.worker, settings.site)
    return identity


class Worker:
    """One enrolled worker."""

    def __init__(self, settings: Settings, state: State, identity: Identity) -> None:
        machine = hardware.describe()
        self._settings, self._identity = settings, identity
        self._store = Store(store.client(settings.store), [job.CLAIM, job.APPEND, RENEW])
        self._fleet = Fleet(_means(settings, machine), self._sync, settings.drain_seconds)
        self._leases = Leases(self._store, identity.worker)
        self._reporter = Reporter(self._store, identity, self._fleet, machine)
        self._assignments = Assignments(self._store, identity, state, self._follow)
        self._keys = KeyRing(self._store, identity, state, rotate=settings.rotate_key)
        site = Site(self._store, identity, self._reporter.count_stale, self._reporter.count_answer)
        gate = Gate(identity, self._loaded, lambda: self._assignments.fresh)
        intake = Intake(gate, self._fleet, self._leases, site, self._reporter.refuse)
        self._carrier = Carrier(settings.broker, intake.take, asyncio.get_running_loop(), settings.carrier)
        self._reporter.troubles = self._troubles
        self._taking = True
        self._emptying: asyncio.Task[None] | None = None  # a drained worker's engines, which stop when idle
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM, SIGINT or revocation."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._store.start()
        self._carrier.start()
        tasks = [
            asyncio.create_task(self._assignments.run(), name="assignments"),
            asyncio.create_task(self._reporter.run(), name="reports"),
            asyncio.create_task(self._leases.run(), name="leases"),
            asyncio.create_task(self._keys.run(), name="keys"),
        ]
        for task in tasks:
            task.add_done_callback(self._on_end)
        try:
            await self._stop.wait()
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            failed = [r for r in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(r, Exception)]
            await self._fleet.stop()
            await asyncio.to_thread(self._carrier.stop, 10.0)
            await self._reporter.leave()
            await self._store.close()
        if failed:
            return 1
        return REVOKED if self._reporter.state == "revoked" else 0

    async def _drain(self) -> None:
        """Take no more; let what runs finish within the limit; then stop it, to be run elsewhere."""
        revoked = self._reporter.state == "revoked"
        self._taking = False
        self._sync()
        if not revoked:
            self._reporter.state = "stopping"
            log.info("stopping: %d jobs may finish within %.0f s", len(self._leases), self._settings.drain_seconds)
            await self._idle(self._settings.drain_seconds)
        self._leases.stop_all(Stop.LEAVING)
        await self._idle(ENDING)

    async def _idle(self, seconds: float) -> None:
        engines = self._fleet.ready().values()
        waiting = [asyncio.create_task(engine.idle.wait()) for engine in engines]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for task in late:
                task.cancel()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed; the worker stops", task.get_name(), exc_info=task.exception())
            self._stop.set()

    def _follow(self, assignment: Assignment) -> None:
        log.info(
            "assignment %d: %s, %d deployments", assignment.revision, assignment.state, len(assignment.deployments)
        )
        self._keys.follow(assignment)
        self._reporter.state = assignment.state
        if assignment.state == "revoked":
            log.error("this worker was revoked by the control plane; enrol it anew with an empty --state-dir")
            self._stop.set()
            return
        self._taking = assignment.state == "active"
        if self._emptying is not None:
            self._emptying.cancel()
            self._emptying = None
        self._sync()
        if assignment.state == "drained":
            self._emptying = asyncio.create_task(self._empty(), name="empty")
        else:
            self._fleet.reconcile(assignment.deployments)

    async def _empty(self) -> None:
        """Drained: what runs may end, however long it takes; then the engines stop and give their memory back."""
        await asyncio.gather(*(engine.idle.wait() for engine in self._fleet.ready().values()))
        self._fleet.reconcile([])

    def _sync(self) -> None:
        """Consume the queues of the engines that are ready, and of no other."""
        ready = self._fleet.ready() if self._taking else {}
        self._carrier.consume({keys.queue(deployment): engine.capacity for deployment, engine in ready.items()})

    def _troubles(self) -> Iterable[str]:
        """For the report."""
        return self._assignments.trouble, self._keys.trouble, self._carrier.trouble

    def _loaded(self, deployment: str) -> str | None:
        engine = self._fleet.find(deployment)
        if engine is None:
            return None
        return engine.digest if engine.ready else ""


def _means(settings: Settings, machine: Hardware) -> Means:
    memory = settings.engine_memory_bytes or hardware.memory_bytes() * 9 // 10
    return Means(
        python=settings.engine_python,
        models=settings.models,
        cache=settings.state_dir / "engine-cache",
        logs=settings.state_dir / "logs",
        run_dir=settings.run_dir or Path(tempfile.gettempdir()),
        gpu=bool(machine.gpus),
        memory_bytes=memory,
        log_bytes=settings.engine_log_bytes,
        start_seconds=settings.engine_start_seconds,
        probe_seconds=settings.probe_seconds,
        hung_seconds=settings.hung_seconds,
    )
