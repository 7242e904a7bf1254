"""Streams under disconnects and a worker's death, and orphans that go on (reliability-security.md, rows 2, 5 and 6)."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.frames import Done, Failed
from infra.local.valkey import Valkey, valkey
from kasbah.serving.services import submit_background
from tests.inference_worker.harness import RunningWorker, start_worker
from tests.serving.world import Answer, Housekeeping, Web, World, apart, make_world, open_web, until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

STREAMS, TOKENS, GONE = 100, 200, 5
LEASE_MS = 3000


@pytest.fixture(scope="module")
def store_server() -> Iterator[Valkey]:
    """One broker for the file."""
    with tempfile.TemporaryDirectory(prefix="ksb-") as home, valkey(Path(home), "site", aof=False) as server:
        yield server


@pytest.fixture
def world(
    transactional_db: None, store_server: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """One site with a short lease, housekeeping running."""
    import redis

    with redis.Redis.from_url(store_server.url) as client:
        client.flushall()
    monkeypatch.setenv("KASBAH_LEASE_MS", str(LEASE_MS))
    (tmp_path / "models").mkdir()
    made = make_world([store_server], tmp_path / "models", slugs=["paris"])
    with Housekeeping(every=0.5):
        yield made


@pytest.fixture
def workers(world: World, tmp_path: Path) -> Iterator[list[RunningWorker]]:
    """Two workers that serve the deployment."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                start_worker(world.stores[0].url, tmp_path / name, token=world.token(), models=world.models)
            )
            for name in ("w1", "w2")
        ]
        for worker in started:
            worker.await_ready()
        yield started


@pytest.fixture
async def web(database: Any, world: World, app_url: str) -> AsyncIterator[Web]:
    """A web process."""
    async with open_web(database, app_url) as opened:
        yield opened


async def test_streams_lose_and_mix_nothing(web: Web, world: World, workers: list[RunningWorker]) -> None:
    await web.ready(world)
    waiting = 20  # streams that have not begun when the worker dies: they go on elsewhere, unseen
    requests = [
        *(world.request(f"[[tokens={TOKENS} delay=0.02 tag=s{n}-]] x", max_tokens=TOKENS) for n in range(STREAMS)),
        *(world.request(f"[[tokens=3 delay=3 tag=s{STREAMS + n}-]] x") for n in range(waiting)),
    ]
    answers = [asyncio.create_task(web.ask(request)) for request in requests]
    site = world.sites[0].id
    await until(lambda: sum(item.relayed for item in web.dispatcher.running_at(site)) == STREAMS, 30)
    gone = [item for item in web.dispatcher.running_at(site) if item.relayed][:: STREAMS // GONE]
    ended = await asyncio.gather(*(item.cancel() for item in gone))
    workers[0].process.kill()
    finished = await asyncio.gather(*answers)

    assert len(gone) == GONE
    assert all(isinstance(last, Done) and last.cancelled for last in ended)
    whole = broken = cut = 0
    for number, answer in enumerate(finished):
        tokens = 3 if number >= STREAMS else TOKENS
        words = answer.text.split()
        # Never a gap, a repetition, another order or another stream's token: always a beginning of the right answer.
        assert words == [f"s{number}-{index}" for index in range(len(words))]
        if isinstance(answer.last, Failed):
            assert answer.last.code == "worker_lost"
            assert len(words) < tokens
            broken += 1
        elif answer.last.cancelled:
            assert answer.last.usage.exact
            assert len(words) <= answer.last.usage.completion_tokens < tokens
            cut += 1
        else:
            assert len(words) == answer.last.usage.completion_tokens == tokens
            whole += 1
        assert not answer.stale
    retried = [answer for answer in finished if answer.running.attempt > 1]
    assert cut == GONE
    assert broken > 0  # the death did hit streams under way
    assert retried
    assert all(isinstance(answer.last, Done) for answer in retried)
    print(f"\n{whole} whole, {cut} cut, {broken} broken, {len(retried)} retried; {dict(web.dispatcher.counters)}")


async def test_a_client_that_is_gone_stops_the_engine(web: Web, world: World, workers: list[RunningWorker]) -> None:
    await web.ready(world)
    running = await web.send(world.request("[[tokens=2000 delay=0.01]] x", max_tokens=2000))
    await until(lambda: running.relayed)
    begun = time.time()
    last = await running.cancel()
    await until(lambda: any(worker.ended("aborted") for worker in workers), 3)
    stopped = next(line for worker in workers for line in worker.ended("aborted"))
    running.close()
    assert isinstance(last, Done)
    assert last.cancelled
    assert stopped["time"] - begun <= 1.0
    assert last.usage.exact
    assert last.usage.completion_tokens < 2000
    print(f"\nthe engine stopped after {stopped['time'] - begun:.2f} s")


async def _orphan(workers: list[RunningWorker]) -> float:
    """Kill the worker that has the job; seconds until the other one's engine gets it."""
    await until(lambda: any(worker.ended("start") for worker in workers))
    holder, other = workers if workers[0].ended("start") else reversed(workers)
    killed = time.time()
    holder.process.kill()
    await until(lambda: bool(other.ended("start")), 15)
    return float(other.ended("start")[0]["time"] - killed)


async def test_an_orphan_goes_on(web: Web, world: World, workers: list[RunningWorker]) -> None:
    await web.ready(world)
    answer = asyncio.create_task(web.ask(world.request("[[tokens=3 delay=1]] x", stream=False)))
    seconds = await _orphan(workers)
    done: Answer = await answer
    assert done.text == " t0 t1 t2"
    assert done.running.attempt == 2
    assert (await world.job(done.running.job.id)).state == "succeeded"
    assert seconds <= LEASE_MS / 1000 + 2 + 2
    print(f"\nthe orphan went on after {seconds:.1f} s, lease {LEASE_MS / 1000:.0f} s")


async def test_an_orphan_in_the_background_goes_on(web: Web, world: World, workers: list[RunningWorker]) -> None:
    await web.ready(world)
    (job_id,) = await apart(submit_background, [world.request("[[tokens=3 delay=1]] x", stream=False)])
    seconds = await _orphan(workers)

    async with asyncio.timeout(15):
        while (row := await world.job(job_id)).state != "succeeded":  # noqa: ASYNC110 - written by another process
            await asyncio.sleep(0.1)
    assert (row.attempt, row.completion_tokens) == (2, 3)
    assert seconds <= LEASE_MS / 1000 + 2 + 2
    print(f"\nthe orphan went on after {seconds:.1f} s, lease {LEASE_MS / 1000:.0f} s")
