"""The engines of a worker: brought to what the assignment says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from inference_worker.contract.egress import Attempt
from inference_worker.contract.messages import Assigned, Served
from inference_worker.engine.supervisor import Engine, Means

log = logging.getLogger(__name__)


class Fleet:
    """Engines by deployment id. `on_change` is called when one becomes ready or ceases to be."""

    def __init__(self, means: Means, on_change: Callable[[], None], drain_seconds: float) -> None:
        self._means = means
        self._on_change = on_change
        self._drain_seconds = drain_seconds
        self._engines: dict[str, Engine] = {}
        self._leaving: dict[asyncio.Task[None], Engine] = {}
        self._attempts: dict[str, Attempt] = {}

    def ready(self) -> dict[str, Engine]:
        """Those that take jobs."""
        return {deployment: engine for deployment, engine in self._engines.items() if engine.ready}

    def find(self, deployment: str) -> Engine | None:
        """The engine of a deployment, in whatever state."""
        return self._engines.get(deployment)

    def served(self) -> list[Served]:
        """For the report."""
        current = [engine.served() for engine in self._engines.values()]
        return current + [e.served() for e in self._leaving.values() if e.assigned.deployment not in self._engines]

    def refused(self) -> list[Attempt]:
        """Connections that the guards of its engines refused since the worker's start."""
        return list(self._attempts.values())

    @property
    def version(self) -> str:
        """Of the engines, for the report."""
        return next((engine.version for engine in self._engines.values() if engine.version != "vllm"), "vllm")

    def reconcile(self, wanted: Iterable[Assigned]) -> None:
        """Start what is new, stop what is gone; what changed in any way is stopped and started."""
        by_deployment = {assigned.deployment: assigned for assigned in wanted}
        for deployment, engine in list(self._engines.items()):
            if by_deployment.get(deployment) != engine.assigned:
                self._retire(deployment, engine)
        for deployment, assigned in by_deployment.items():
            if deployment not in self._engines:
                log.info("deployment %s: model %s", assigned.name, assigned.model_digest[:12])
                engine = Engine(assigned, self._means, self._on_change, self._attempts)
                self._engines[deployment] = engine
                engine.start()

    def _retire(self, deployment: str, engine: Engine) -> None:
        log.info("deployment %s: stopping its engine", engine.assigned.name)
        del self._engines[deployment]
        task = asyncio.create_task(self._finish(engine))
        self._leaving[task] = engine
        task.add_done_callback(self._leaving.pop)

    async def _finish(self, engine: Engine) -> None:
        engine.retire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await engine.idle.wait()
        await engine.stop()

    async def stop(self) -> None:
        """Stop all of them, now."""
        tasks = list(self._leaving)
        for task in tasks:
            task.cancel()
        engines = [*self._engines.values(), *self._leaving.values()]
        self._engines.clear()
        await asyncio.gather(*(engine.stop() for engine in engines), *tasks, return_exceptions=True)
