"""The reader of replies: an entry that is none is dropped, counted, and never read again; a full or junk store too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from inference_worker.contract import frames, keys, scripts
from inference_worker.contract.frames import Data, Done
from kasbah.common.errors import Unavailable
from kasbah.serving.dispatch import replies
from kasbah.serving.dispatch.store import LOOK, OFFER, SyncStore
from kasbah.serving.services import Timings
from tests.serving.stand_in import StandIn
from tests.serving.world import Answer, Web, World, open_web, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

HOSTILE: list[dict[Any, Any]] = [
    {"j": "x"},
    {"j": b"\xff", "a": "1", "s": "0", "f": "x"},
    {"j": "x", "a": "one", "s": "0", "f": "x"},
    {"j": "x", "a": "1", "s": "9" * 5000, "f": "x"},
    {"j": "x", "a": "-1", "s": "0", "f": "x"},
    {"j": "x" * 10_000, "a": "1", "s": "0", "f": "x"},
    {"rubbish": "x"},
]


async def answered(web: Web, world: World, standing: StandIn) -> Answer:
    """One request, answered by the worker."""
    running = await web.send(world.request(stream=False))
    collected = asyncio.create_task(web.collect(running))
    message = None
    while message is None:
        message = standing.take()
        await asyncio.sleep(0.01)
    taken = standing.open(message)
    standing.claim(taken)
    standing.answer(taken)
    return await asyncio.wait_for(collected, 10)


def reader_of(web: Web, world: World) -> replies.ReplyReader:
    return web.dispatcher._links[world.sites[0].id].reader


@pytest.mark.parametrize("fields", HOSTILE, ids=range(len(HOSTILE)))
async def test_malformed_entry_is_dropped_and_answers_go_on(
    web: Web, world: World, standing: StandIn, fields: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await web.ready(world)
    reader = reader_of(web, world)
    standing.store.xadd(keys.replies(web.dispatcher.owner), fields)
    answer = await answered(web, world, standing)
    assert isinstance(answer.last, Done)
    assert reader.reading.is_set()
    # What is of no job that runs here is passed over anyway; all else is counted and told of with the site's name.
    expected = 0 if fields.get("j") == b"\xff" else 1
    assert reader.dropped == expected
    assert sum("reply at site paris is dropped" in each.getMessage() for each in caplog.records) == expected
    await until(lambda: not standing.store.xrange(keys.replies(web.dispatcher.owner), count=5)[1:])


async def test_entry_that_a_job_cannot_take_is_dropped_alone(
    web: Web, world: World, standing: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await web.ready(world)
    real, met = web.dispatcher._deliver, []

    def fails_first(entry: replies.Entry) -> None:
        met.append(entry)
        if entry[0] == "x":
            raise RuntimeError("a defect")
        real(entry)

    reader = reader_of(web, world)
    monkeypatch.setattr(reader, "_deliver", fails_first)
    standing.store.xadd(keys.replies(web.dispatcher.owner), {"j": "x", "a": "1", "s": "0", "f": "x"})
    assert isinstance((await answered(web, world, standing)).last, Done)
    assert [entry[0] for entry in met].count("x") == 1  # not read again
    assert reader.dropped == 1


async def test_without_the_guard_the_reader_stops_reading(
    web: Web, world: World, standing: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where the error of one entry reaches the loop, the site's replies are not read for a while."""
    await web.ready(world)
    reader, stopped = reader_of(web, world), []
    monkeypatch.setattr(reader, "_take", lambda fields: reader._deliver(replies.entry_of(fields)))
    monkeypatch.setattr(reader.reading, "clear", lambda: stopped.append(True))
    standing.store.xadd(keys.replies(web.dispatcher.owner), {"j": "x"})
    await until(lambda: bool(stopped))


async def test_stream_of_another_type_is_made_anew(web: Web, world: World, standing: StandIn) -> None:
    await web.ready(world)
    name = keys.replies(web.dispatcher.owner)
    standing.store.delete(name)
    standing.store.hset(name, "a", "b")
    assert isinstance((await answered(web, world, standing)).last, Done)
    await until(lambda: standing.store.type(name) == b"stream")


async def test_job_marked_done_without_a_last_frame_ends(
    database: Any, world: World, standing: StandIn, app_url: str
) -> None:
    async with open_web(database, app_url, Timings(look=0.05)) as web:
        await web.ready(world)
        running = await web.send(world.request())
        standing.store.hset(keys.job(running.key), "done", "1")
        standing.store.xadd(keys.frames(running.key, 1), {"s": "no", "f": "number"})
        answer = await asyncio.wait_for(web.collect(running), 10)
    assert answer.last.code == "answer_altered"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "junk", [{"attempt": "x"}, {"attempt": "9" * 5000}, {"lease": "soon"}, {"worker": "no id"}, {"number": "x"}, None]
)
async def test_junk_in_one_jobs_hash_harms_no_other_job(
    database: Any, world: World, standing: StandIn, app_url: str, junk: dict[str, str] | None
) -> None:
    async with open_web(database, app_url, Timings(look=0.05, lease_ms=1000)) as web:
        await web.ready(world)
        harmed = await web.send(world.request())
        if junk is None:
            standing.store.set(keys.job(harmed.key), "another type")
        else:
            standing.store.hset(keys.job(harmed.key), mapping=junk)
        await asyncio.sleep(0.3)
        assert web.dispatcher._links[world.sites[0].id].away_since is None
        harmed.close()
        while standing.take() is not None:
            pass
        assert isinstance((await answered(web, world, standing)).last, Done)


def test_scripts_heal_keys_of_another_type(world: World, standing: StandIn) -> None:
    deployment = str(world.deployment.id)
    names = [keys.job("j"), keys.queue(deployment), keys.offered(deployment)]
    for name in names:
        standing.store.set(name, "junk")
    store = SyncStore(world.stores[0].url, 1.0)
    assert store.run(OFFER, [(names, (1, 60, "envelope"))]) == [0]
    assert standing.store.llen(names[1]) == 1
    (sight,) = store.run(LOOK, [([names[0], names[2], names[1]], ())])
    assert sight[0] == b"1"
    standing.store.set(keys.job("bad"), "junk")
    standing.store.hset(keys.job("good"), mapping={"attempt": "1", "worker": "w"})
    renew = standing.store.register_script(scripts.RENEW)
    answers = renew(keys=[keys.job("bad"), keys.job("good")], args=["w", 1000, 1, 1])
    assert answers == [scripts.STALE, scripts.OK]  # the leases of a worker's other jobs are renewed
    store.close()


def test_frames_of_another_writer_and_shape_are_passed_over(world: World, standing: StandIn) -> None:
    store = SyncStore(world.stores[0].url, 1.0)
    name = keys.frames("j", 1)
    for fields in ({"s": "0"}, {"f": "x"}, {"s": "x", "f": "x"}, {"s": "0", "f": frames.pack([Data(b"{}")])}):
        standing.store.xadd(name, fields)
    assert store.frames("j", 1) == [(0, frames.pack([Data(b"{}")]))]
    standing.store.set(keys.frames("k", 1), "junk")
    assert store.last_frames([("k", 1), ("j", 1)]) == [None, (0, frames.pack([Data(b"{}")]))]
    assert store.frames("k", 1) == []
    store.close()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_request_at_a_full_store_ends_within_seconds(
    database: Any, world: World, standing: StandIn, app_url: str, when: str
) -> None:
    """An offer passed and nobody could claim it: as it was, the client heard that after 62 s."""
    full: Any = redis.Redis.from_url(world.stores[0].url)
    async with open_web(database, app_url, Timings(look=0.1, lease_ms=1000)) as web:
        await web.ready(world)
        began = asyncio.get_running_loop().time()
        try:
            if when == "before":
                full.config_set("maxmemory", "1")
                with pytest.raises(Unavailable):
                    await web.send(world.request())
            else:
                running = await web.send(world.request())
                standing.take()
                full.config_set("maxmemory", "1")
                answer = await asyncio.wait_for(web.collect(running), 20)
                assert answer.last.status == 503  # type: ignore[union-attr]
        finally:
            full.config_set("maxmemory", "0")
        assert asyncio.get_running_loop().time() - began < (2 if when == "before" else 15)
