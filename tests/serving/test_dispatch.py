"""The dispatcher when workers, brokers and answers misbehave. The worker is a stand-in that a test drives by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_worker.contract import keys, scripts
from inference_worker.contract.frames import Body, Data, Done, Failed, Role
from inference_worker.contract.messages import RefusalCode, Usage
from kasbah.common.errors import Unavailable
from kasbah.serving import tasks
from kasbah.serving.dispatch import running as running_jobs
from kasbah.serving.dispatch.replies import ReplyReader
from kasbah.serving.dispatch.tasks import end
from kasbah.serving.services import Timings
from tests.serving.stand_in import StandIn, Taken
from tests.serving.world import Answer, Web, World, apart, open_web, stand_in, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

QUICK = Timings(lease_ms=600, look=0.1, queue_wait=3.0, store_patience=3.0)
CHUNK = b'{"choices":[{"delta":{"content":"%s"}}]}'


@pytest.fixture
async def standing(world: World) -> AsyncIterator[StandIn]:
    """A worker of the first site."""
    made = await apart(stand_in, world)
    yield made
    made.close()


@pytest.fixture
async def web(database: Any, world: World, standing: StandIn, app_url: str) -> AsyncIterator[Web]:
    """A web process that looks often."""
    async with open_web(database, app_url, QUICK) as opened:
        await opened.ready(world)
        yield opened


async def take(standing: StandIn, lease_ms: int = 60_000) -> Taken:
    """The next job, claimed."""
    taken = await unclaimed(standing)
    assert standing.claim(taken, lease_ms) == scripts.OK
    return taken


async def unclaimed(standing: StandIn) -> Taken:
    """The next job."""
    found = []
    await until(lambda: bool(found or ((message := standing.take()) and found.append(message))) or bool(found))
    return standing.open(found[0])


def ask(web: Web, world: World, **options: Any) -> asyncio.Task[Answer]:
    """A job under way."""
    return asyncio.create_task(web.ask(world.request("hello", **options)))


# --- another attempt


async def test_a_failure_that_may_be_tried_again_is(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world, stream=False)
    first = await take(standing)
    standing.fail(first, retry=True)
    second = await take(standing)
    standing.answer(second)
    done = await answer
    assert (done.text, second.message.attempt) == ("hello", 2)
    row = await world.job(done.running.job.id)
    assert (row.attempt, row.state) == (2, "succeeded")
    assert first.message.ticket != second.message.ticket


async def test_a_failure_for_good_is_not_tried_again(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    standing.fail(await take(standing), retry=False)
    done = await answer
    assert isinstance(done.last, Failed)
    assert (done.last.code, done.running.attempt) == ("engine_lost", 1)


async def test_attempts_are_bounded(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    for attempt in range(1, QUICK.attempts + 1):
        taken = await take(standing)
        assert taken.message.attempt == attempt
        standing.fail(taken, retry=True, code="worker_stopping")
    done = await answer
    assert isinstance(done.last, Failed)
    assert done.last.code == "worker_lost"
    assert (await world.job(done.running.job.id)).attempt == QUICK.attempts
    assert standing.take() is None


@pytest.mark.parametrize("code", ["engine_lost", "engine_failed"])
async def test_a_request_that_ends_engines_is_not_sent_to_all_of_them(
    web: Web, world: World, standing: StandIn, code: str
) -> None:
    answer = ask(web, world)
    for attempt in (1, 2):
        taken = await take(standing)
        assert taken.message.attempt == attempt
        standing.fail(taken, retry=True, code=code)
    done = await answer
    assert isinstance(done.last, Failed)
    assert (done.last.code, done.running.attempt) == (code, 2)
    assert standing.take() is None


async def test_without_that_bound_it_is_sent_to_all_of_them(
    web: Web, world: World, standing: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(running_jobs, "ENGINE_FAILURES", frozenset())
    answer = ask(web, world)
    for attempt in range(1, QUICK.attempts + 1):
        taken = await take(standing)
        assert taken.message.attempt == attempt
        standing.fail(taken, retry=True)
    assert isinstance((await answer).last, Failed)


async def test_a_lost_worker_is_replaced_and_fenced_off(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    frozen = await take(standing, lease_ms=300)
    standing.append(frozen, Role(CHUNK % b""))  # nothing that the client has seen
    second = await take(standing)
    assert standing.append(frozen, Data(CHUNK % b"old")) == scripts.STALE
    standing.append(second, Data(CHUNK % b"new"), standing.done(second))
    assert standing.append(frozen, standing.done(frozen)) == scripts.STALE
    done = await answer
    assert done.text == "new"
    assert done.running.attempt == 2


async def test_what_was_relayed_cannot_be_begun_again(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    taken = await take(standing, lease_ms=300)
    standing.append(taken, Data(CHUNK % b"half"))
    # the lease ends, since an append renews nothing
    done = await answer
    assert done.text == "half"
    assert isinstance(done.last, Failed)
    assert done.last.code == "worker_lost"
    assert done.running.attempt == 1
    assert standing.take() is None


async def test_a_message_that_was_lost_on_its_way_is_sent_again(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world, stream=False)
    lost = await unclaimed(standing)  # taken from the queue by a worker that dies at once
    again = await take(standing)
    assert (lost.message.attempt, again.message.attempt) == (1, 2)
    assert standing.claim(lost) == scripts.STALE
    standing.answer(again)
    assert (await answer).text == "hello"


async def test_waiting_in_a_queue_is_not_being_lost(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world, stream=False)
    await asyncio.sleep(QUICK.lease * 3)
    taken = await take(standing)
    assert taken.message.attempt == 1
    standing.answer(taken)
    assert (await answer).running.attempt == 1


async def test_a_queue_that_nobody_empties(web: Web, world: World, standing: StandIn) -> None:
    begun = time.monotonic()
    done = await ask(web, world)
    assert isinstance(done.last, Failed)
    assert (done.last.status, done.last.code) == (503, "no_capacity")
    assert QUICK.queue_wait <= time.monotonic() - begun < QUICK.queue_wait + 1.5
    late = await unclaimed(standing)
    assert standing.claim(late) == scripts.CANCELLED  # whoever takes it later does not run it


@pytest.mark.parametrize(("sites", "moves"), [((0,), False), ((0, 1), True)], ids=["confined", "free"])
async def test_no_attempt_leaves_the_compliant_sites(
    web: Web, world: World, standing: StandIn, sites: tuple[int, ...], moves: bool
) -> None:
    """The second case is the negative control: where policy allows the other site, the job does go there."""
    other = await apart(stand_in, world, 1)
    job = web.dispatcher.prepare(world.request("hello", sites=(0,), stream=False))
    other.alive(capacity=500)
    await web.ready(world, (0, 1))
    request = world.request("hello", sites=sites, stream=False)
    assert job.site == world.sites[0].id
    standing.alive(capacity=1000)
    await until(lambda: web.dispatcher.capacity.ready(request.deployment_id, request.sites)[0] == world.sites[0].id)
    answer = asyncio.create_task(web.ask(request))
    await take(standing, lease_ms=300)
    standing.store.delete(keys.worker(standing.worker))  # the worker is gone, and its lease with it
    if moves:
        other.answer(await take(other))
        assert (await answer).running.site == world.sites[1].id
    else:
        standing.answer(await take(standing))
        assert (await answer).running.site == world.sites[0].id
        assert other.store.keys("*dep.*") == other.store.keys("ksb:job:*") == []
    other.close()


async def test_a_worker_that_refuses_lets_another_try(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world, stream=False)
    standing.refuse((await unclaimed(standing)).message, RefusalCode.EXPIRED)
    await apart(tasks.collect_reports)
    standing.answer(await take(standing))
    assert (await answer).running.attempt == 2


async def test_a_job_that_no_worker_may_run_is_refused(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    standing.refuse((await unclaimed(standing)).message, RefusalCode.BAD_TICKET)
    await apart(tasks.collect_reports)
    done = await answer
    assert isinstance(done.last, Failed)
    assert (done.last.status, done.last.code) == (403, "refused_by_worker")
    assert (await world.job(done.running.job.id)).state == "refused"


async def test_a_job_that_somebody_else_ended_is_not_begun_again(web: Web, world: World, standing: StandIn) -> None:
    running = await web.send(world.request("hello"))
    await take(standing, lease_ms=300)
    other = Answer(running)
    other.frames.append(Failed(503, "owner_lost", "", Usage(0, 0)))
    await web.settle(other)
    done = await web.collect(running)
    assert isinstance(done.last, Failed)
    assert done.last.code == "settled_elsewhere"
    assert done.stale
    assert standing.take() is None


# --- answers


async def test_replies_that_were_missed_are_read_from_the_store(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    taken = await take(standing)
    replies = keys.replies(web.dispatcher.owner)
    standing.append(taken, Data(CHUNK % b"a"))
    standing.store.delete(replies)  # the script appends only where there is a reader's stream
    standing.append(taken, Data(CHUNK % b"b"))
    standing.append(taken, Data(CHUNK % b"c"))
    standing.store.xadd(replies, {"o": ""})
    standing.append(taken, Data(CHUNK % b"d"))
    standing.append(taken, standing.done(taken))
    done = await answer
    assert done.text == "abcd"
    assert web.dispatcher.counters["gap"] >= 1


async def test_a_last_frame_that_was_missed_is_found_by_the_watch(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    taken = await take(standing)
    standing.append(taken, Data(CHUNK % b"a"))
    standing.store.delete(keys.replies(web.dispatcher.owner))
    standing.append(taken, standing.done(taken))
    assert (await answer).text == "a"


async def test_a_reader_that_dies_is_started_again(
    web: Web, world: World, standing: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(web, world)
    taken = await take(standing)
    turn, failures = ReplyReader._turn, iter([RuntimeError("a fault of the reader's own")])

    async def faulty(self: ReplyReader) -> None:
        for failure in failures:
            raise failure
        await turn(self)

    monkeypatch.setattr(ReplyReader, "_turn", faulty)
    standing.append(taken, Data(CHUNK % b"a"))
    standing.append(taken, Data(CHUNK % b"b"))
    await until(lambda: "The reader of the replies of site paris failed" in caplog.text, 5)
    standing.append(taken, Data(CHUNK % b"c"), standing.done(taken))
    assert (await answer).text == "abc"


@pytest.mark.parametrize("field", ["job", "attempt", "policy", "site", "worker", "ticket_sha256", "none", "key"])
async def test_an_answer_without_a_good_receipt_is_withheld(
    web: Web, world: World, standing: StandIn, field: str
) -> None:
    answer = ask(web, world, stream=False)
    taken = await take(standing)
    forged: dict[str, Any] = {field: 7 if field == "attempt" else "another"}
    if field == "none":
        done = Done(Usage(1, 1), "")
    elif field == "key":
        stranger = await apart(stand_in, world, 1)
        done = stranger.done(taken, site=standing.site)
        stranger.close()
    else:
        done = standing.done(taken, **forged)
    standing.append(taken, Body(b'{"choices":[{"message":{"content":"secret"}}]}'), done)
    ended = await answer
    assert isinstance(ended.last, Failed)
    assert (ended.last.status, ended.last.code) == (502, "bad_receipt")
    assert ended.text == ""


async def test_a_worker_that_was_just_enrolled_is_believed(web: Web, world: World, standing: StandIn) -> None:
    """The negative control of the one before: the same way, a good receipt."""
    answer = ask(web, world, stream=False)
    taken = await unclaimed(standing)
    web.dispatcher.capacity.set_workers([])
    standing.claim(taken)
    standing.answer(taken)
    assert (await answer).text == "hello"


async def test_frames_altered_in_the_store_are_withheld(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    taken = await take(standing)
    box = bytearray(taken.cipher.seal(0, b"x"))
    box[-1] ^= 1
    entry = {"j": taken.message.job, "a": 1, "s": 0, "f": bytes(box)}
    standing.store.xadd(keys.frames(taken.message.job, 1), {"s": 0, "f": bytes(box)})
    standing.store.xadd(keys.replies(web.dispatcher.owner), entry)
    done = await answer
    assert isinstance(done.last, Failed)
    assert done.last.code == "answer_altered"


# --- the client's side, and outages


async def test_cancelling_what_still_waits(web: Web, world: World, standing: StandIn) -> None:
    running = await web.send(world.request("hello"))
    begun = time.monotonic()
    last = await running.cancel()
    running.close()
    assert isinstance(last, Done)
    assert (last.cancelled, last.usage.completion_tokens) == (True, 0)
    assert time.monotonic() - begun < 1
    assert standing.claim(await unclaimed(standing)) == scripts.CANCELLED


async def test_cancelling_what_runs(web: Web, world: World, standing: StandIn) -> None:
    running = await web.send(world.request("hello"))
    taken = await take(standing)
    cancelling = asyncio.create_task(running.cancel())
    await until(lambda: standing.append(taken, Data(CHUNK % b"x")) == scripts.CANCELLED)
    standing.append(taken, standing.done(taken, 7, cancelled=True))
    last = await cancelling
    assert isinstance(last, Done)
    assert last.usage == Usage(1, 7)
    running.close()


async def test_a_cancelled_job_whose_worker_is_lost_ends(web: Web, world: World, standing: StandIn) -> None:
    running = await web.send(world.request("hello"))
    await take(standing, lease_ms=300)
    last = await running.cancel(wait=5)
    running.close()
    assert isinstance(last, Done)
    assert last.cancelled
    assert not last.usage.exact
    assert standing.take() is None


async def test_nobody_serves_it(web: Web, world: World, standing: StandIn) -> None:
    standing.store.delete(keys.worker(standing.worker))
    await until(lambda: not web.dispatcher.capacity.ready(world.deployment.id, [world.sites[0].id]))
    with pytest.raises(Unavailable) as raised:
        web.dispatcher.prepare(world.request("hello"))
    assert raised.value.code == "no_capacity"
    assert raised.value.retry_after


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_a_store_that_is_away(web: Web, world: World, standing: StandIn, how: str) -> None:
    job = web.dispatcher.prepare(world.request("hello"))
    server = world.stores[0]
    if how == "gone":
        server.kill()
    else:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            await web.dispatcher.submit(job)
        assert time.monotonic() - begun < 2
        assert raised.value.retry_after
        assert server.url not in str(raised.value)
        assert not web.dispatcher.capacity.ready(world.deployment.id, [world.sites[0].id])
    finally:
        if how == "gone":
            server.start()
        else:
            os.kill(server.pid, signal.SIGCONT)
    standing.alive()
    await web.ready(world)
    while standing.take() is not None:
        pass  # a frozen store may have taken the offer in, whose row is settled as failed by now
    answer = ask(web, world, stream=False)
    standing.answer(await take(standing))
    assert (await answer).text == "hello"


async def test_a_store_that_stays_away_fails_what_runs(web: Web, world: World, standing: StandIn) -> None:
    answer = ask(web, world)
    await take(standing)
    server = world.stores[0]
    server.kill()
    try:
        done = await asyncio.wait_for(answer, QUICK.store_patience + 3)
    finally:
        server.start()
    assert isinstance(done.last, Failed)
    assert done.last.code == "site_unreachable"


async def test_the_row_is_kept_from_the_sweeper(web: Web, world: World, standing: StandIn) -> None:
    running = await web.send(world.request("hello"))
    first = (await world.job(running.job.id)).lease_until
    await take(standing)
    await asyncio.sleep(QUICK.row_lease * 2)
    row = await world.job(running.job.id)
    assert row.lease_until > first
    assert (row.state, str(row.worker_id)) == ("running", standing.worker)
    await apart(tasks.sweep_jobs)
    assert (await world.job(running.job.id)).state == "running"
    running.close()


async def test_closing_ends_what_runs(database: Any, world: World, standing: StandIn, app_url: str) -> None:
    async with open_web(database, app_url, QUICK) as web:
        await web.ready(world)
        running = await web.send(world.request("hello"))
        await web.dispatcher.close()
        assert isinstance(running.terminal, Failed)
        assert running.terminal.status == 503
        assert not standing.store.exists(keys.replies(web.dispatcher.owner))


async def test_a_swallowed_cancellation_does_not_keep_a_task_alive() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end([task])
    assert task.cancelled()
    assert swallowed == 2


async def test_a_client_that_leaves_while_the_job_moves(web: Web, world: World, standing: StandIn) -> None:
    running = await web.send(world.request("hello"))
    first = await take(standing)
    offer = web.dispatcher.offer

    async def leaves(moved: Any) -> None:
        await offer(moved)
        moved.cancelled = True

    web.dispatcher.offer = leaves  # type: ignore[method-assign]
    standing.fail(first, retry=True)
    last = await asyncio.wait_for(running_end(running), 5)
    running.close()
    assert isinstance(last, Done)
    assert last.cancelled
    assert standing.claim(await unclaimed(standing)) == scripts.CANCELLED


async def running_end(running: Any) -> Any:
    """The last frame."""
    return [frame async for frames in running.frames() for frame in frames][-1]
