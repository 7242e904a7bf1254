"""A site whose broker is RabbitMQ and whose store is a Valkey beside it: jobs, deaths, and a broker that is killed.

Runs where KASBAH_TEST_AMQP names rabbitmq-server (tests/serving/rabbitmq.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from inference_worker.contract import keys
from inference_worker.contract.frames import Done, Failed
from kasbah.common.errors import Unavailable
from kasbah.residency.models import SiteHealth
from kasbah.residency.services import update_site
from kasbah.serving.dispatch.publisher import Publisher
from tests import factories
from tests.inference_worker.harness import RunningWorker, start_worker, wait_for
from tests.serving.rabbitmq import RabbitMQ, rabbitmq
from tests.serving.world import Housekeeping, World, apart, open_web, until

pytestmark = [pytest.mark.amqp, pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """One node for all of them: it takes ten seconds to start."""
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as started:
        yield started


@pytest.fixture
def beside(world: World, node: RabbitMQ) -> World:
    """The first site with RabbitMQ beside its store."""
    update_site(factories.SYSTEM, world.sites[0], broker_url=node.url, store_url=world.stores[0].url)
    return world


@pytest.fixture
def housekeeping() -> Iterator[Housekeeping]:
    """Celery's worker and beat."""
    with Housekeeping() as running:
        yield running


def a_worker(world: World, node: RabbitMQ, folder: Path, token: str = "") -> Any:
    """One of the first site."""
    token = token or world.token()
    return start_worker(world.stores[0].url, folder, token=token, models=world.models, broker=node.url)


@pytest.fixture
def worker(beside: World, node: RabbitMQ, tmp_path: Path, housekeeping: Housekeeping) -> Iterator[RunningWorker]:
    """One that serves."""
    with a_worker(beside, node, tmp_path / "w1") as running:
        running.await_ready(timeout=40)
        yield running


def in_queue(world: World, node: RabbitMQ) -> int:
    """Messages that nobody holds."""
    publisher = Publisher(node.url, 2.0)
    try:
        return publisher.waiting([str(world.deployment.id)])[str(world.deployment.id)]
    finally:
        publisher.close()


async def test_jobs_go_through_a_quorum_queue(
    database: Any, app_url: str, beside: World, node: RabbitMQ, worker: RunningWorker
) -> None:
    async with open_web(database, app_url) as web:
        await web.ready(beside)
        requests = [beside.request(f"[[tokens=5 tag=j{number}.]]") for number in range(40)]
        answers = await asyncio.gather(*(web.ask(request) for request in requests))
        for number, answer in enumerate(answers):
            assert answer.text == "".join(f" j{number}.{token}" for token in range(5))
    rows = await apart(beside.jobs)
    assert {(row.state, row.attempt) for row in rows} == {("succeeded", 1)}
    store = worker.store
    assert not store.exists(keys.queue(str(beside.deployment.id))), "the jobs went through the store"
    assert not worker.log.count("Traceback"), worker.log
    with Connection(node.url) as connection:
        channel: Any = connection.channel()
        with pytest.raises(connection.channel_errors, match="inequivalent arg 'x-queue-type'"):
            channel.queue_declare(queue=keys.queue(str(beside.deployment.id)), durable=True, auto_delete=False)
    health = await apart(lambda: SiteHealth.objects.get(site=beside.sites[0]))
    assert (health.life, health.broker_state, health.store_state) == ("live", "ok", "ok")


async def test_no_more_jobs_than_there_is_room_for(
    database: Any, app_url: str, beside: World, node: RabbitMQ, worker: RunningWorker
) -> None:
    """The prefetch of a quorum queue is a consumer's: the engine's places, and what is more waits in the queue."""
    async with open_web(database, app_url) as web:
        await web.ready(beside)
        requests = [beside.request("[[tokens=160 delay=0.05]]", max_tokens=160) for _ in range(70)]
        sent = await asyncio.gather(*(web.send(request) for request in requests))
        await until(lambda: len(worker.ended("start")) == 64, 20)  # the deployment's max_num_seqs
        await until(lambda: in_queue(beside, node) == 6, 5)
        answers = await asyncio.gather(*(web.collect(running) for running in sent))
    assert {answer.text.count(" t") for answer in answers} == {160}


async def test_a_worker_that_is_killed_loses_nothing(  # noqa: PLR0917 - fixtures
    database: Any, app_url: str, beside: World, node: RabbitMQ, tmp_path: Path, worker: RunningWorker
) -> None:
    with a_worker(beside, node, tmp_path / "w2", await apart(beside.token)) as second:
        second.await_ready(timeout=40)
        async with open_web(database, app_url) as web:
            await web.ready(beside)
            requests = [beside.request("[[tokens=20 delay=0.05]]", stream=False) for _ in range(12)]
            asked = [asyncio.create_task(web.ask(request)) for request in requests]
            await until(lambda: len(worker.ended("start")) > 2 and len(second.ended("start")) > 2, 20)
            worker.process.kill()
            answers = await asyncio.gather(*asked)
            retried = web.dispatcher.counters["retried"]
    assert all(isinstance(answer.last, Done) for answer in answers)
    assert {answer.text.count(" t") for answer in answers} == {20}
    assert retried > 2
    rows = await apart(beside.jobs)
    assert {row.state for row in rows} == {"succeeded"}
    assert max(row.attempt for row in rows) == 2


async def test_a_broker_that_is_killed_loses_nothing(
    database: Any, app_url: str, beside: World, node: RabbitMQ, worker: RunningWorker
) -> None:
    """What runs goes on by the store; new jobs are refused at once, and taken again when it is back."""
    async with open_web(database, app_url) as web:
        await web.ready(beside)
        running = [await web.send(beside.request("[[tokens=150 delay=0.05]]", max_tokens=150)) for _ in range(64)]
        await until(lambda: len(worker.ended("start")) == 64, 20)
        waiting = [await web.send(beside.request("[[tokens=3]]")) for _ in range(5)]
        node.kill()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await web.send(beside.request("[[tokens=3]]"))
        assert time.monotonic() - began < 2.5
        await until(lambda: not web.dispatcher.capacity.ready(beside.deployment.id, [beside.sites[0].id]), 5)
        await apart(wait_for, lambda: SiteHealth.objects.get(site=beside.sites[0]).life == "unreachable", 15)
        await asyncio.to_thread(node.start)
        answers = await asyncio.gather(*(web.collect(each) for each in [*running, *waiting]))
        assert all(isinstance(answer.last, Done) for answer in answers), [
            answer.last for answer in answers if isinstance(answer.last, Failed)
        ]
        await web.ready(beside)
        assert (await web.ask(beside.request("[[tokens=3]]"))).text == " t0 t1 t2"
        assert web.dispatcher.counters["retried"] == 0, "a quorum queue keeps what was confirmed"


async def test_a_broker_that_lost_its_queues_loses_no_job(
    database: Any, app_url: str, beside: World, node: RabbitMQ, worker: RunningWorker
) -> None:
    """The length of the queue tells that a message that was confirmed is there no more."""
    async with open_web(database, app_url) as web:
        await web.ready(beside)
        hold = [await web.send(beside.request("[[tokens=100 delay=0.05]]", max_tokens=100)) for _ in range(64)]
        await until(lambda: len(worker.ended("start")) == 64, 20)
        waiting = [await web.send(beside.request("[[tokens=3]]")) for _ in range(5)]
        with Connection(node.url) as connection:
            channel: Any = connection.channel()
            purged = channel.queue_purge(keys.queue(str(beside.deployment.id)))
        assert purged == 5
        answers = await asyncio.gather(*(web.collect(each) for each in [*hold, *waiting]))
        assert all(isinstance(answer.last, Done) for answer in answers)
        assert web.dispatcher.counters["retried"] == 5
