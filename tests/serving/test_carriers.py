"""Both carriers put the same message into the queue, and a stock Celery worker takes it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract import keys, scripts
from inference_worker.contract.messages import JobMessage
from kasbah.serving.dispatch.carriers import CeleryCarrier, RedisCarrier, carrier
from kasbah.serving.dispatch.publisher import Offer
from kasbah.serving.dispatch.store import Store, StoreAway
from tests.inference_worker.harness import wait_for
from tests.serving.stand_in import StandIn
from tests.serving.world import World, apart, open_web, stand_in

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = JobMessage(job="018f0000-0000-7000-8000-000000000009", attempt=3, ticket="t", payload="p", reply_to="o")
# Of each message; of each sender, for results, which nobody sends; and options that Celery leaves beside the headers.
OWN = {"delivery_tag", "reply_to", "argsrepr", "kwargsrepr"}


def queued(standing: StandIn) -> list[dict[str, Any]]:
    return [json.loads(message) for message in standing.store.lrange(keys.queue(standing.deployment), 0, -1)]


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    properties = {name: value for name, value in message["properties"].items() if name not in OWN}
    # stock Celery names an exchange of the queue's name; both lead to the list of that name
    properties["delivery_info"] = properties["delivery_info"]["routing_key"]
    headers = {name: value for name, value in message["headers"].items() if name not in {"origin"}}
    body = json.loads(base64.b64decode(message["body"]))
    return {**message, "body": body, "properties": properties, "headers": headers}


async def test_the_messages_are_the_same(stores: list[Any], world: World) -> None:
    standing = await apart(stand_in, world)
    url = stores[0].url
    store = Store(url, 2.0)
    found = []
    for each in (RedisCarrier(store), CeleryCarrier(store, url, 2.0)):
        await each.send([Offer(standing.deployment, MESSAGE)])
        found += queued(standing)
        await store.client.flushall()
    await store.close()
    written, published = map(comparable, found)
    assert written == published
    assert written["headers"]["task"] == keys.TASK
    assert written["headers"]["id"] == f"{MESSAGE.job}:3"


@pytest.fixture(params=["redis", "celery"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each carrier in turn, as an installation chooses it."""
    monkeypatch.setenv("KASBAH_CARRIER", request.param)
    return str(request.param)


async def test_an_attempt_is_offered_once(name: str, stores: list[Any], world: World) -> None:
    standing = await apart(stand_in, world)
    store = Store(stores[0].url, 2.0)
    chosen = carrier(store, stores[0].url, stores[0].url, 2.0)
    offer = Offer(standing.deployment, MESSAGE)
    await chosen.send([offer])
    await chosen.send([offer])  # the answer to the first was lost
    messages = len(queued(standing))
    attempt = standing.store.hget(keys.job(MESSAGE.job), "attempt")
    await store.close()
    assert attempt == b"3"
    # Stock publishing cannot be tied to the attempt: a second message may lie there, and its claim is refused.
    assert messages == (1 if name == "redis" else 2)


async def test_a_store_that_is_away_is_said(stores: list[Any]) -> None:
    url = "redis://127.0.0.1:1/0"
    store = Store(url, 0.3)
    for each in (RedisCarrier(store), CeleryCarrier(store, url, 0.3)):
        with pytest.raises(StoreAway) as raised:
            await each.send([Offer("d", MESSAGE)])
        assert "127.0.0.1" not in str(raised.value)
    await store.close()


def test_an_unknown_carrier_is_refused(monkeypatch: Any) -> None:
    from kasbah.common.env import SettingInvalid

    monkeypatch.setenv("KASBAH_CARRIER", "pigeon")
    with pytest.raises(SettingInvalid, match="pigeon"):
        carrier(Store("redis://127.0.0.1:1/0", 0.3), "redis://a", "redis://a", 0.3)


@contextlib.contextmanager
def stock_worker(standing: StandIn, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Celery's own worker, as anybody would start it."""
    command = [
        sys.executable, "-m", "celery", "-A", "tests.serving.celery_stand_in", "worker", "-P", "threads", "-c", "4",
        "-Q", keys.queue(standing.deployment), "--without-gossip", "--without-mingle", "-l", "info",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "STAND_IN": standing.encode()}, stdout=output, stderr=output
        )
    try:
        wait_for(lambda: "ready." in log.read_text() or process.poll() is not None, 20)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("name")
async def test_a_stock_worker_takes_them(database: Any, world: World, app_url: str, tmp_path: Path) -> None:
    standing = await apart(stand_in, world)
    with stock_worker(standing, tmp_path / "log"):
        async with open_web(database, app_url) as web:
            await web.ready(world)
            requests = [world.request(f"job {number}", stream=False) for number in range(20)]
            answers = await asyncio.gather(*(web.ask(request) for request in requests))
        assert [answer.text for answer in answers] == [f"job {number}" for number in range(20)]
        rows = await apart(world.jobs)
        assert {(row.state, row.attempt, row.completion_tokens) for row in rows} == {("succeeded", 1, 1)}
        # Acknowledged, all of them: nothing would be delivered again.
        await apart(lambda: wait_for(lambda: not standing.store.hlen("unacked"), 5))
        await apart(_deliver_again, standing, rows[0])
    standing.close()


def _deliver_again(standing: StandIn, row: Any) -> None:
    """A broker may deliver twice: the second is taken, and changes nothing."""
    job = str(row.id)
    before = standing.store.xlen(keys.frames(job, 1))
    message = JobMessage(job=job, attempt=1, ticket="", payload="", reply_to="")
    claim = standing.store.register_script(scripts.CLAIM)
    assert claim(keys=[keys.job(message.job)], args=[1, "another", 1000, "n"]) == scripts.STALE
    assert standing.store.xlen(keys.frames(job, 1)) == before
