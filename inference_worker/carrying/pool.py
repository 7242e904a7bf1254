"""A Celery pool (`CELERY_CUSTOM_WORKER_POOL`) whose tasks are coroutines on one event loop: no thread a job.

Celery's tracer, which sends the signals, keeps the states and handles Retry, Reject and Ignore, is a plain function
that calls the task. It runs here unchanged, in a greenlet that rests while the task's coroutine runs. Celery's stacks
(`current_task`, `task.request`) are kept by greenlet when the package is installed, so tasks do not see each other's.

A soft time limit cancels the coroutine, which may clean up or even answer; if it ends cancelled the task fails with
SoftTimeLimitExceeded. A hard limit and `terminate` settle the task at once and cancel the coroutine.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from celery.concurrency.base import BasePool, apply_target
from celery.exceptions import SoftTimeLimitExceeded, WorkerLostError
from greenlet import getcurrent, greenlet

Result = TypeVar("Result")


class _Killed(BaseException):
    """Unwinds the greenlet of a task that was settled otherwise. Not an Exception: the tracer must let it pass."""


class _TaskGreenlet(greenlet):
    job: _Job


def awaited(function: Callable[..., Coroutine[Any, Any, Result]]) -> Callable[..., Result]:
    """Body of a task for this pool, from a coroutine function."""

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Result:
        current = getcurrent()
        if not isinstance(current, _TaskGreenlet):
            raise RuntimeError(f"{function.__name__} runs in the pool {CoroutinePool.__name__} only")  # noqa: TRY004
        return current.job.wait(function(*args, **kwargs))

    return body


class CoroutinePool(BasePool):
    """Runs tasks on `app.conf.kasbah_loop`; with hub.LoopHub they come from there, too."""

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loop: asyncio.AbstractEventLoop = self.app.conf.kasbah_loop
        self.jobs: dict[int, _Job] = {}
        self.idle = threading.Event()
        self.idle.set()
        self._numbers = itertools.count(1)

    def on_apply(self, *args: Any, **options: Any) -> _Job:  # type: ignore[override] # the stub forgets the answer
        """Start a task soon: `target, args, kwargs` and Celery's callbacks and limits."""
        job = _Job(self, next(self._numbers), options)
        self.jobs[job.number] = job
        self.idle.clear()
        if _is_running(self.loop):
            self.loop.call_soon(job.start, *args)
        else:  # a transport that has no use for a hub
            self.loop.call_soon_threadsafe(job.start, *args)
        return job

    def discard(self, job: _Job) -> None:
        """The task's greenlet has ended."""
        self.jobs.pop(job.number, None)
        if not self.jobs:
            self.idle.set()

    def on_stop(self) -> None:
        """Wait for the tasks, as Celery's other pools do. In Celery's thread."""
        self.idle.wait()

    def on_terminate(self) -> None:
        """End the tasks; their messages stay unacknowledged."""
        self.loop.call_soon_threadsafe(self._terminate_all)

    def _terminate_all(self) -> None:
        for job in list(self.jobs.values()):
            job.terminate()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End one; `pid` is the number that Celery was told when it was accepted."""
        if job := self.jobs.get(pid):
            job.terminate(signal)

    def _get_info(self) -> dict[str, Any]:
        stock: Any = super()
        return {**stock._get_info(), "running": len(self.jobs)}


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class _Job:
    """One task; what `apply_async` answers."""

    def __init__(self, pool: CoroutinePool, number: int, options: dict[str, Any]) -> None:
        self.number = number
        self._pool, self._options = pool, options
        self._task: asyncio.Task[Any] | None = None
        self._failure: Exception | None = None
        self._killed = False
        self._limits: list[asyncio.TimerHandle] = []
        self._greenlet: _TaskGreenlet
        self._home: greenlet  # where the event loop runs

    def start(self, target: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._home, self._greenlet = getcurrent(), _TaskGreenlet(self._run)
        self._greenlet.job = self
        self._set_limits()
        self._greenlet.switch(target, args, kwargs)

    def wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run the task's coroutine; its greenlet rests meanwhile. In the greenlet."""
        if self._killed:
            coroutine.close()
            raise _Killed
        task: asyncio.Task[Result] = self._pool.loop.create_task(coroutine)
        self._task = task
        task.add_done_callback(lambda _: self._greenlet.switch())
        self._home.switch()
        self._task = None
        if self._killed:
            if not task.cancelled():
                task.exception()  # looked at: nobody is to be told
            raise _Killed
        if task.cancelled():
            raise self._failure or WorkerLostError("the task's coroutine was cancelled")
        return task.result()

    def terminate(self, signal: int | None = None) -> None:
        """Cancel it and settle nothing more: who terminates a request has settled it. On the event loop."""
        self._killed = True
        if self._task is not None:
            self._task.cancel()

    def _run(self, target: Callable[..., Any], args: Any, kwargs: Any) -> None:
        options = self._options
        try:
            apply_target(
                target, args, kwargs, options.get("callback"), options.get("accept_callback"),
                pid=self.number, propagate=(_Killed,),
            )  # fmt: skip
        except _Killed:
            pass
        finally:
            for limit in self._limits:
                limit.cancel()
            self._pool.discard(self)

    def _set_limits(self) -> None:
        for name, reached in (("soft_timeout", self._on_soft_limit), ("timeout", self._on_hard_limit)):
            if seconds := self._options.get(name):
                self._limits.append(self._pool.loop.call_later(seconds, reached, seconds))

    def _on_soft_limit(self, seconds: float) -> None:
        self._options["timeout_callback"](True, seconds)
        self._failure = SoftTimeLimitExceeded(seconds)
        if self._task is not None:
            self._task.cancel()

    def _on_hard_limit(self, seconds: float) -> None:
        self.terminate()
        self._options["timeout_callback"](False, seconds)
