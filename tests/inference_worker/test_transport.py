"""The transport that pops in batches against kombu's own: the same queues, the same keys, each other's messages."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from infra.local.home import REPOSITORY
from infra.local.valkey import Valkey, valkey
from tests.inference_worker.celery_workers import OURS, STOCK, Running, running, wait_for

BOTH = pytest.mark.parametrize("kind", [STOCK, OURS])
ACKS = pytest.mark.parametrize("acks", [True, False], ids=["acks", "no-acks"])

HOLD = """
import asyncio, sys
from tests.inference_worker.celery_workers import Running

async def body(task, *_):
    await asyncio.sleep(600)

kind, url, queue = sys.argv[1:]
worker = Running(kind, url, body, queue=queue)
worker.start()
worker._thread.join()
"""


class Held:
    """A task's body that waits for `open`, and what ran of it."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.gate = threading.Event()

    async def __call__(self, task: Any, number: Any) -> None:
        self.begun.append(number)
        while not self.gate.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.01)
        self.ended.append(number)


@pytest.fixture
def own_broker() -> Iterator[Valkey]:
    """A broker that a test may restart."""
    with tempfile.TemporaryDirectory(prefix="ksb-") as home, valkey(Path(home), "own") as server:
        yield server


def shape(value: Any) -> Any:
    """The structure of JSON, with types for values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def test_unacknowledged_messages_are_written_alike(site_url: str) -> None:
    found = {}
    for kind in (STOCK, OURS):
        held = Held()
        with running(kind, site_url, held) as worker:
            before = time.time()
            worker.send(1)
            worker.send(2)
            wait_for(lambda held=held: len(held.begun) == 2)
            scores = dict(worker.store.zrange(f"{worker.prefix}unacked_index", 0, -1, withscores=True))
            assert scores.keys() == worker.unacked.keys()
            assert all(before - 1 < score < time.time() + 1 for score in scores.values())
            entries = {tag.decode(): json.loads(entry) for tag, entry in worker.unacked.items()}
            assert all(entry[0]["properties"]["delivery_tag"] == tag for tag, entry in entries.items())
            found[kind] = [shape(entry) for entry in entries.values()]
            held.gate.set()
            wait_for(lambda worker=worker: not worker.unacked)
            assert worker.store.zcard(f"{worker.prefix}unacked_index") == 0
    assert found[STOCK] == found[OURS]


@pytest.mark.parametrize(("killed", "restorer"), [(OURS, STOCK), (STOCK, OURS), (OURS, OURS)])
def test_what_a_killed_worker_held_is_restored(killed: str, restorer: str, site_url: str) -> None:
    queue = f"test.{uuid.uuid4().hex}"
    held = Held()
    held.gate.set()
    child = subprocess.Popen([sys.executable, "-c", HOLD, killed, site_url, queue], cwd=REPOSITORY, env={**os.environ})
    store: Redis = Redis.from_url(site_url)
    try:
        sender = Running(STOCK, site_url, held, queue=queue)
        for number in range(4):
            sender.send(number)
        wait_for(lambda: store.hlen(f"{queue}.unacked") == 4, 20)
    finally:
        child.kill()
        child.wait()
    with running(restorer, site_url, held, queue=queue, transport={"visibility_timeout": 1}) as worker:
        wait_for(lambda: sorted(held.ended) == [0, 1, 2, 3], 15)
        wait_for(lambda: not worker.unacked)
    sender.close()
    store.close()


@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")  # it warns of what is set, too
@BOTH
@ACKS
def test_the_worker_survives_its_broker(kind: str, acks: bool, own_broker: Valkey) -> None:
    held = Held()
    held.gate.set()
    with running(kind, own_broker.url, held, transport={"ack_emulation": acks}) as worker:
        worker.send(1)
        wait_for(lambda: held.ended == [1])
        own_broker.kill()
        time.sleep(0.5)
        own_broker.start()
        sender: Redis = Redis.from_url(own_broker.url)
        wait_for(sender.ping)
        worker.send(2)
        wait_for(lambda: 2 in held.ended, 20)
        sender.close()


@BOTH
@ACKS
def test_queues_come_and_go(kind: str, acks: bool, site_url: str) -> None:
    held = Held()
    held.gate.set()
    with running(kind, site_url, held, transport={"ack_emulation": acks}) as worker:
        consumer, second = worker.worker.consumer, f"{worker.queue}.second"
        worker.soon(consumer.add_task_queue, second)
        wait_for(lambda: consumer.task_consumer.consuming_from(second))
        worker.send("a", queue=second)
        worker.send("b")
        wait_for(lambda: sorted(held.ended) == ["a", "b"])
        worker.soon(consumer.cancel_task_queue, second)
        wait_for(lambda: not consumer.task_consumer.consuming_from(second))
        worker.send("c", queue=second)  # a pop that asks for both queues may still be under way
        worker.send("d")
        wait_for(lambda: "d" in held.ended)
        wait_for(lambda: worker.store.llen(second) == 1)
        time.sleep(1.2)
        assert worker.store.llen(second) == 1
    assert sorted(held.ended) == ["a", "b", "d"]


def test_what_a_batch_holds_too_much_goes_back_in_order(site_url: str) -> None:
    held = Held()
    with running(OURS, site_url, held, concurrency=6) as worker:
        consumer = worker.worker.consumer
        time.sleep(0.3)  # the pop that waits asks for six
        worker.loop.call_soon_threadsafe(consumer.task_consumer.qos, 0, 2)
        messages = []
        for number in range(6):
            worker.app.conf.task_default_queue = worker.queue
            worker.send(number, queue=f"{worker.queue}.aside")
            messages.append(worker.store.rpop(f"{worker.queue}.aside"))
        worker.store.lpush(worker.queue, *messages)
        wait_for(lambda: len(held.begun) == 2)
        time.sleep(0.3)
        assert (worker.waiting, len(worker.unacked)) == (4, 2)
        held.gate.set()
        wait_for(lambda: len(held.ended) == 6)
    assert held.begun == [0, 1, 2, 3, 4, 5]


def test_what_is_no_message_is_dropped_and_the_rest_delivered(site_url: str, caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    held.gate.set()
    with running(OURS, site_url, held) as worker:
        worker.store.lpush(worker.queue, b"{", b"[]", b'{"properties": {}}', b"\xff")
        worker.send(1)
        wait_for(lambda: held.ended == [1])
        wait_for(lambda: not worker.unacked)
    assert caplog.text.count("not a message") == 4


@BOTH
def test_a_prefix_of_all_keys_is_kept(kind: str, site_url: str) -> None:
    held = Held()
    with running(kind, site_url, held, transport={"global_keyprefix": "all."}) as worker:
        worker.send(1)
        wait_for(lambda: held.begun == [1])
        assert worker.store.hlen(f"all.{worker.prefix}unacked") == 1
        held.gate.set()
        wait_for(lambda: worker.store.hlen(f"all.{worker.prefix}unacked") == 0)
