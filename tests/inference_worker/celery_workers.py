"""Celery workers in this process, with Celery's stock parts or with ours, for tests that hold one to the other."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvloop
from celery import Celery
from celery.app.trace import setup_worker_optimizations
from celery.backends.base import DisabledBackend
from celery.worker import WorkController, state
from redis import Redis

from inference_worker.carrying.hub import LoopWorker
from inference_worker.carrying.pool import CoroutinePool, awaited

STOCK, OURS = "stock", "ours"
TRANSPORT = "inference_worker.carrying.transport:Transport"
Body = Callable[..., Awaitable[Any]]


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Fails the test when the condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


class Running:
    """A Celery worker with one task, `task`, on one queue. `kind` says whose pool, hub and transport it has."""

    def __init__(self, kind: str, url: str, body: Body, *, queue: str = "", **conf: Any) -> None:
        self.queue = queue or f"test.{uuid.uuid4().hex}"
        self.store: Redis = Redis.from_url(url)
        self.kind, self.prefix = kind, conf.pop("prefix", f"{self.queue}.")
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()  # as the worker's
        self._loop_thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.app = Celery("test", broker=url, set_as_current=False, fixups=[])
        options = {
            "unacked_key": f"{self.prefix}unacked",
            "unacked_index_key": f"{self.prefix}unacked_index",
            "unacked_mutex_key": f"{self.prefix}unacked_mutex",
            "unacked_restore_interval": 0.2,
            "unacked_restore_throttle": 1,
        }
        self.app.conf.update(
            accept_content=["json"],
            broker_connection_retry_on_startup=True,
            broker_transport=TRANSPORT if kind == OURS else None,
            broker_transport_options={**options, **conf.pop("transport", {})},
            kasbah_loop=self.loop,
            task_acks_late=True,
            task_default_queue=self.queue,
            task_ignore_result=True,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            worker_enable_remote_control=False,
            worker_hijack_root_logger=False,
            worker_prefetch_multiplier=1,
        )
        self._concurrency = conf.pop("concurrency", 8)
        self.task = self.app.task(name="test.task", typing=False, shared=False, bind=True, **conf)(self._body(body))
        self.task.backend = DisabledBackend(self.app)

    def _body(self, body: Body) -> Callable[..., Any]:
        if self.kind == OURS:
            return awaited(body)  # type: ignore[arg-type]

        def in_thread(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(body(*args, **kwargs), self.loop).result()  # type: ignore[arg-type]

        return in_thread

    def start(self) -> None:
        """Both threads, and wait until it consumes."""
        self._loop_thread.start()
        setup_worker_optimizations(self.app)
        made: type[WorkController] = LoopWorker if self.kind == OURS else WorkController
        self.worker: Any = made(
            app=self.app,
            pool_cls=CoroutinePool if self.kind == OURS else "threads",
            concurrency=self._concurrency,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        ready = threading.Event()
        self.worker.consumer.init_callback = lambda _: ready.set()
        self._thread = threading.Thread(target=self.worker.start, daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def send(self, *args: Any, **options: Any) -> str:
        """A task, by Celery's own way; its id."""
        return str(self.task.apply_async(args, argsrepr="", kwargsrepr="", **options).id)

    def soon(self, call: Callable[..., Any], *args: Any) -> None:
        """Where the consumer runs."""
        self.worker.consumer.call_soon(call, *args)

    @property
    def waiting(self) -> int:
        """Messages in the queue."""
        return int(self.store.llen(self.queue))

    @property
    def unacked(self) -> Mapping[bytes, bytes]:
        """What was taken and not acknowledged."""
        return self.store.hgetall(f"{self.prefix}unacked")

    def stop(self) -> None:
        """Warm shutdown."""
        state.should_stop = 0  # type: ignore[assignment]
        self.soon(lambda: None)  # it looks at its state after every round
        self._thread.join(15)
        alive = self._thread.is_alive()
        state.should_stop = None
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._loop_thread.join(5)
        self.close()
        assert not alive, "Celery's worker did not stop"

    def close(self) -> None:
        """What was made without `start`."""
        self.loop.close()
        self.store.close()
        self.app.close()


@contextmanager
def running(kind: str, url: str, body: Body, **options: Any) -> Iterator[Running]:
    """Started, and stopped afterwards."""
    worker = Running(kind, url, body, **options)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
