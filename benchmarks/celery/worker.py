"""The worker that is measured: `python -m benchmarks.celery.worker stock|loop QUEUE`, the broker's URL in BROKER.

Each task answers with an entry in the stream `QUEUE:replies`, written by the worker's own batching store, as jobs do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvloop
from celery import Celery
from celery.app.trace import setup_worker_optimizations
from celery.backends.base import DisabledBackend
from celery.worker import WorkController

from inference_worker import store
from inference_worker.carrying import quick
from inference_worker.carrying.hub import LoopWorker
from inference_worker.carrying.pool import CoroutinePool, awaited
from inference_worker.store import Store

TASK = "benchmark.echo"
CAPACITY = 256
STOCK, LOOP = "stock", "loop"
TRANSPORT = "inference_worker.carrying.transport:Transport"


def make_app(broker: str, queue: str, loop: asyncio.AbstractEventLoop, transport: str | None) -> Celery:
    """With the settings of the inference worker."""
    app = Celery("benchmark", broker=broker, set_as_current=False, fixups=[])
    app.conf.update(
        accept_content=["json"],
        broker_transport=transport,
        broker_transport_options={"ack_emulation": os.environ.get("ACKS") == "1", "priority_steps": [0]},
        task_acks_late=True,
        task_default_queue=queue,
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
        kasbah_loop=loop,
    )
    return app


def work(kind: str, broker: str, queue: str, echo: Callable[[str], Any], loop: asyncio.AbstractEventLoop) -> None:
    """Run Celery's worker; blocks."""
    pool, transport = os.environ.get("POOL", kind), os.environ.get("TRANSPORT", kind)
    if pool == LOOP:
        quick.use()
    app = make_app(broker, queue, loop, TRANSPORT if transport == LOOP else None)

    def in_thread(text: str) -> None:
        asyncio.run_coroutine_threadsafe(echo(text), loop).result()

    task = app.task(name=TASK, typing=False)(awaited(echo) if pool == LOOP else in_thread)
    task.backend = DisabledBackend(app)
    setup_worker_optimizations(app)
    made: type[WorkController] = LoopWorker if pool == LOOP else WorkController
    made(
        app=app,
        pool_cls=CoroutinePool if pool == LOOP else "threads",
        concurrency=CAPACITY,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()


async def main(kind: str, queue: str) -> None:
    """Until SIGTERM."""
    loop, broker = asyncio.get_running_loop(), os.environ["BROKER"]
    replies = Store(store.client(broker), [])
    replies.start()

    async def echo(text: str) -> None:
        await replies.send("XADD", f"{queue}:replies", "*", "t", text)

    threading.Thread(target=work, args=(kind, broker, queue, echo, loop), daemon=True).start()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
