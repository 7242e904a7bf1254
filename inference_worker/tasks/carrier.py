"""Celery carries the jobs: a worker inside this process that consumes what the engines are ready for.

Redis' own acknowledgement is off (`ack_emulation`): it costs two round trips a message and returns a lost one only
after its visibility timeout. The job's row is the truth, and the control plane's sweeper sends again within seconds.
RabbitMQ's is on: what a worker held when it died is given to another at once, and its claim decides.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from celery import Celery
from celery.app.trace import setup_worker_optimizations
from celery.backends.base import DisabledBackend
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown

from inference_worker.carrying import quick
from inference_worker.carrying.hub import LoopWorker
from inference_worker.carrying.pool import CoroutinePool, awaited
from inference_worker.contract import keys, tls
from inference_worker.contract.dumps import leave_no_dumps
from inference_worker.contract.loggate import LogGate

log = logging.getLogger(__name__)

BATCHED, STOCK = "batched", "stock"
TRANSPORT = "inference_worker.carrying.transport:Transport"
THREADS = 1024  # at most, of the stock pool; a thread is started when a job finds none idle
RECONNECT_FIRST, RECONNECT_STEP, RECONNECT_LONGEST = 0.1, 0.2, 1.0
NO_QUEUE = "dep.none"
HEARTBEAT = 10  # seconds; a RabbitMQ that says nothing for twice as long is away
DELAYED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Consumer(CeleryConsumer):
    """Celery's consumer, reconnecting within a second and telling when it is connected."""

    # Without the thirty exchanges for delayed tasks that Celery declares where it sees a quorum queue.
    Blueprint: Any = type(
        "Blueprint",
        (CeleryConsumer.Blueprint,),
        {"default_steps": [step for step in CeleryConsumer.Blueprint.default_steps if step != DELAYED]},
    )

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; Celery's own pauses grow to 30 s, longer than a broker takes to come back."""

        def on_error(error: Exception, _interval: float) -> None:
            self.app.conf.kasbah_away(type(error).__name__)

        return conn.ensure_connection(
            on_error,
            None,
            interval_start=RECONNECT_FIRST,
            interval_step=RECONNECT_STEP,
            interval_max=RECONNECT_LONGEST,
            callback=maybe_shutdown,
        )

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """What takes each message. One that it cannot take is dropped, and never comes again; the others go on."""
        take = super().create_task_handler(*args, **kwargs)
        lost: tuple[type[Exception], ...] = self.connection_errors  # type: ignore[attr-defined] # missing in the stubs

        def on_task_received(message: Any) -> None:
            try:
                take(message)
            except lost:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it holds
                # The type alone: a message, and so an error's text, may hold a ticket.
                log.error("a message of the broker cannot be read (%s); it is dropped", type(error).__name__)  # noqa: TRY400
                message.reject_log_error(log, lost)

        return on_task_received

    def on_ready(self) -> None:
        """Connected, after every reconnect too."""
        super().on_ready()
        self.app.conf.kasbah_connected()


def make_app(broker: str) -> Celery:
    """The Celery application of a worker: JSON only, no results, no remote control."""
    app = Celery("kasbah-worker", broker=broker, set_as_current=False, fixups=[])
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_default_queue=NO_QUEUE,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_consumer=f"{__name__}:Consumer",
        broker_connection_retry_on_startup=True,
        broker_use_ssl=tls.options(broker),
    )
    if is_amqp(broker):
        # By the type of its default queue, which nobody consumes, Celery knows that a prefetch is of one consumer.
        app.conf.update(broker_heartbeat=HEARTBEAT, task_default_queue_type="quorum")
    else:
        options = {"ack_emulation": False, "priority_steps": [0], "socket_keepalive": True}
        app.conf.update(broker_heartbeat=0, broker_transport_options=options)
    return app


def is_amqp(broker: str) -> bool:
    """Whether it is RabbitMQ's address."""
    return broker.startswith(("amqp://", "amqps://"))


def _nothing() -> None:
    """Wakes Celery's hub."""


class Carrier:
    """Consumes the queues that it is told and awaits `take(message)` on `loop` for each message.

    "batched" has Celery's rounds, its tasks and its pops on the event loop (inference_worker.carrying). "stock" has
    Celery's own parts, with a thread for each job: for RabbitMQ and other brokers without BLMPOP, and to tell whose
    fault something is.
    """

    def __init__(
        self, broker: str, take: Callable[[Any], Coroutine[Any, Any, None]], loop: AbstractEventLoop, kind: str
    ) -> None:
        self._app, self._take, self._loop, self._amqp = make_app(broker), take, loop, is_amqp(broker)
        self._batched = kind == BATCHED or (not kind and not self._amqp)
        self._app.conf.update(kasbah_connected=self._connected, kasbah_away=self._away, kasbah_loop=loop)
        leave_no_dumps()
        if self._batched:
            quick.use()
            self._app.conf.broker_transport = TRANSPORT
        body = awaited(take) if self._batched else self._wait
        task = self._app.task(name=keys.TASK, acks_late=True, ignore_result=True, typing=False, shared=False)(body)
        task.backend = DisabledBackend(self._app)  # else each thread looks through all packages for it
        self._places: Mapping[str, int] = {}  # how many messages at once, by queue
        self._consumed: dict[str, int] = {}  # the same, as RabbitMQ was told
        self._worker: Any = None
        self._stopping = False
        self._gate = LogGate()
        self.trouble = ""  # why the broker cannot be used now
        self._thread = threading.Thread(target=self._run, name="celery", daemon=True)

    def _wait(self, message: Any) -> None:
        """Body of the task in a thread."""
        asyncio.run_coroutine_threadsafe(self._take(message), self._loop).result()

    def _away(self, reason: str) -> None:
        """The broker cannot be reached; it is tried again."""
        self.trouble = f"the broker is away ({reason})"
        if self._gate.due("broker", reason):
            log.warning("the broker is away (%s); it is tried again every second", reason)

    def start(self) -> None:
        """Begin; no queue is consumed yet."""
        self._thread.start()

    def consume(self, places: Mapping[str, int]) -> None:
        """From now on these queues, with at most so many messages at once. From any thread; takes effect soon."""
        self._places = dict(places)
        worker = self._worker
        if worker is not None and worker.consumer is not None:
            worker.consumer.call_soon(self.apply)

    def apply(self) -> None:
        """Bring the connected consumer to what is wanted; where Celery's rounds run."""
        consumer, places = self._worker.consumer, self._places
        consumer.initial_prefetch_count = capacity = max(sum(places.values()), 1)
        if consumer.task_consumer is None or consumer.qos is None:
            return
        current = set(self._app.amqp.queues.consume_from)
        if self._amqp:
            self._apply_each(consumer, current)
            return
        consumer.qos.value = capacity
        consumer.qos.update()
        for queue in current - places.keys():
            consumer.cancel_task_queue(queue)
        for queue in places.keys() - current:
            consumer.add_task_queue(queue)

    def _apply_each(self, consumer: Any, current: set[str]) -> None:
        """RabbitMQ keeps a prefetch for each consumer of a quorum queue, and as it was when that was made."""
        for queue in current:
            if self._consumed.get(queue) != self._places.get(queue):
                consumer.cancel_task_queue(queue)
                self._consumed.pop(queue, None)
        for queue, places in self._places.items():
            if queue not in self._consumed:
                consumer.qos.value = max(places, 1)
                consumer.qos.update()
                consumer.add_task_queue(queue, queue_arguments=keys.QUORUM)
                self._consumed[queue] = places

    def _connected(self) -> None:
        """Anew, or again: what was told to a connection before this one is forgotten with it."""
        self._consumed, self.trouble = {}, ""
        self._gate.ended("celery")
        if self._gate.ended("broker"):
            log.warning("the broker is back")
        self.apply()

    def stop(self, timeout: float) -> None:
        """Stop consuming and wait for the thread. The jobs have ended before."""
        self._stopping = True
        state.should_stop = 0  # type: ignore[assignment]
        worker = self._worker
        if worker is not None and worker.consumer is not None:
            worker.consumer.call_soon(_nothing)  # it looks at its state after every round
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._worker = self._make_worker()
                self._worker.start()  # until it is told to stop, or fails
            except Exception as error:
                self.trouble = f"its Celery worker fails ({type(error).__name__})"
                if self._gate.due("celery", type(error).__name__):
                    log.exception("Celery's worker failed; another is started every second")
            if not self._stopping:
                time.sleep(1)

    def _make_worker(self) -> Any:
        setup_worker_optimizations(self._app)
        kind: type[WorkController] = LoopWorker if self._batched else WorkController
        worker: Any = kind(
            app=self._app,
            pool_cls=CoroutinePool if self._batched else "threads",
            concurrency=THREADS,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            exclude_queues=[NO_QUEUE],
        )
        worker.consumer.initial_prefetch_count = max(sum(self._places.values()), 1)
        return worker
