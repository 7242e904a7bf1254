"""The pool of coroutines against Celery's own threads: the same bodies must see the same promises kept."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TimeLimitExceeded
from celery.worker import state

from inference_worker.carrying.pool import awaited
from tests.inference_worker.celery_workers import OURS, STOCK, running, wait_for

BOTH = pytest.mark.parametrize("kind", [STOCK, OURS])


@contextmanager
def seen(*names: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The signals of Celery with these names, as they come."""
    events: list[tuple[str, dict[str, Any]]] = []
    receivers = []
    for name in names:

        def receive(_name: str = name, **given: Any) -> None:
            events.append((_name, given))

        getattr(signals, name).connect(receive, weak=False)
        receivers.append((getattr(signals, name), receive))
    try:
        yield events
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)


@BOTH
def test_signals_surround_the_work_and_the_message_goes_when_it_is_done(kind: str, site_url: str) -> None:
    order: list[str] = []
    gate = threading.Event()

    async def body(task: Any, text: str) -> None:
        order.append(f"begin {text}")
        while not gate.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.01)
        order.append("end")

    names = ("task_prerun", "task_success", "task_postrun")
    with seen(*names) as events, running(kind, site_url, body) as worker:
        task_id = worker.send("a")
        wait_for(lambda: order)
        assert [name for name, _ in events] == ["task_prerun"]
        wait_for(lambda: len(worker.unacked) == 1)
        gate.set()
        wait_for(lambda: not worker.unacked)
        wait_for(lambda: len(events) == 3)
    assert order == ["begin a", "end"]
    assert [name for name, _ in events] == list(names)
    assert {given["task_id"] for name, given in events if name != "task_success"} == {task_id}
    assert events[2][1]["state"] == "SUCCESS"


@BOTH
def test_each_of_many_tasks_sees_its_own_request(kind: str, site_url: str) -> None:
    found: list[tuple[str, str, str]] = []

    async def body(task: Any, number: int) -> None:
        found.append((str(number), "", ""))
        await asyncio.sleep(0.05)

    with running(kind, site_url, body, concurrency=8) as worker:

        async def looking(task: Any, number: int) -> None:
            await asyncio.sleep(0.02)

        def around(task: Any, number: int) -> None:
            before = task.request.id
            worker.task_body(task, number)
            found.append((before, task.request.id, str(task.request.args[0])))

        worker.task_body = worker.task.run.__func__  # type: ignore[attr-defined]
        worker.task.run = around.__get__(worker.task)
        worker.task.__trace__ = None
        worker.worker.consumer.update_strategies()
        ids = {worker.send(number): str(number) for number in range(8)}
        wait_for(lambda: len([one for one in found if one[1]]) == 8)
    ended = [one for one in found if one[1]]
    assert len({before for before, _, _ in ended}) == 8
    assert all(before == after and ids[before] == number for before, after, number in ended)


@BOTH
def test_a_failure_is_told_and_the_worker_goes_on(kind: str, site_url: str) -> None:
    async def body(task: Any, fails: bool) -> str:
        await asyncio.sleep(0)
        if fails:
            raise ValueError("on purpose")
        return "fine"

    with seen("task_failure", "task_success") as events, running(kind, site_url, body) as worker:
        worker.send(True)
        wait_for(lambda: len(events) == 1)
        worker.send(False)
        wait_for(lambda: len(events) == 2)
        wait_for(lambda: not worker.unacked)
        assert worker.waiting == 0
    assert [name for name, _ in events] == ["task_failure", "task_success"]
    assert isinstance(events[0][1]["exception"], ValueError)
    assert events[1][1]["result"] == "fine"


@BOTH
@pytest.mark.parametrize("how", ["requeue", "reject", "ignore"])
def test_what_is_rejected_or_ignored(kind: str, how: str, site_url: str) -> None:
    times: list[float] = []

    async def body(task: Any) -> None:
        times.append(time.monotonic())
        if how == "ignore":
            raise Ignore
        if how == "reject" or len(times) == 1:
            raise Reject("not here", requeue=how == "requeue")

    with seen("task_postrun") as events, running(kind, site_url, body) as worker:
        worker.send()
        expected = 2 if how == "requeue" else 1
        wait_for(lambda: len(events) == expected)
        wait_for(lambda: not worker.unacked)
        time.sleep(0.2)
        assert (len(times), worker.waiting) == (expected, 0)
    states = [given["state"] for _, given in events]
    assert states == {"requeue": ["REJECTED", "SUCCESS"], "reject": ["REJECTED"], "ignore": ["IGNORED"]}[how]


@BOTH
def test_a_retry_runs_again(kind: str, site_url: str) -> None:
    tries: list[int] = []

    async def body(task: Any) -> None:
        tries.append(1)

    with seen("task_retry") as events, running(kind, site_url, body) as worker:
        inner = worker.task.run

        def once_more() -> None:
            inner()
            if worker.task.request.retries == 0:
                raise worker.task.retry(countdown=0)

        worker.task.run = once_more
        worker.worker.consumer.update_strategies()
        worker.send()
        wait_for(lambda: len(tries) == 2)
        wait_for(lambda: not worker.unacked)
    assert len(events) == 1


@BOTH
def test_a_revoked_task_does_not_run(kind: str, site_url: str) -> None:
    ran: list[str] = []

    async def body(task: Any, text: str) -> None:
        ran.append(text)

    with seen("task_revoked") as events, running(kind, site_url, body) as worker:
        state.revoked.add("revoked-id")
        worker.send("revoked", task_id="revoked-id")
        worker.send("other")
        wait_for(lambda: ran and events)
        wait_for(lambda: not worker.unacked)
    assert ran == ["other"]
    assert [given["terminated"] for _, given in events] == [False]


@BOTH
def test_no_more_is_taken_than_there_is_room_for(kind: str, site_url: str) -> None:
    running_now, most = 0, 0
    gate = threading.Event()

    async def body(task: Any) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        while not gate.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        running_now -= 1

    with seen("task_postrun") as events, running(kind, site_url, body, concurrency=5) as worker:
        for _ in range(30):
            worker.send()
        wait_for(lambda: running_now == 5)
        time.sleep(0.3)
        assert (len(worker.unacked), worker.waiting) == (5, 25)
        gate.set()
        wait_for(lambda: len(events) == 30)
    assert most == 5


@BOTH
def test_a_place_that_is_free_again_is_used_at_once(kind: str, site_url: str) -> None:
    ended: list[int] = []

    async def body(task: Any, number: int) -> None:
        await asyncio.sleep(0.01)
        ended.append(number)

    with running(kind, site_url, body, concurrency=1) as worker:
        for number in range(40):
            worker.send(number)
        wait_for(lambda: len(ended) == 40, 5)  # not one a look at the timers, which is 0.2 s here
    assert ended == list(range(40))


@BOTH
def test_shutdown_waits_for_what_runs(kind: str, site_url: str) -> None:
    ended: list[int] = []

    async def body(task: Any, number: int) -> None:
        await asyncio.sleep(0.5)
        ended.append(number)

    with running(kind, site_url, body) as worker:
        for number in range(3):
            worker.send(number)
        wait_for(lambda: len(worker.unacked) == 3)
        prefix, store = worker.prefix, worker.store
        worker.stop()
        worker.stop = lambda: None  # type: ignore[method-assign]
    assert sorted(ended) == [0, 1, 2]
    assert store.hlen(f"{prefix}unacked") == 0
    store.close()


def test_terminated_tasks_end_and_their_messages_go(site_url: str) -> None:
    cancelled: list[str] = []

    async def body(task: Any) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise

    with seen("task_revoked", "task_success", "task_failure") as events, running(OURS, site_url, body) as worker:
        worker.send()
        wait_for(lambda: state.active_requests)
        (request,) = state.active_requests
        worker.soon(request.terminate, worker.worker.pool, "TERM")
        wait_for(lambda: cancelled)
        wait_for(lambda: not worker.unacked and not worker.worker.pool.jobs)
    assert [(name, given["terminated"]) for name, given in events] == [("task_revoked", True)]


def test_a_soft_limit_cancels_and_lets_the_task_clean_up(site_url: str) -> None:
    async def body(task: Any, heeds: bool) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if heeds:
                raise
        return "in spite of it"

    with (
        seen("task_failure", "task_success") as events,
        running(OURS, site_url, body, soft_time_limit=0.2) as worker,
    ):
        worker.send(True)
        wait_for(lambda: len(events) == 1)
        worker.send(False)
        wait_for(lambda: len(events) == 2)
        wait_for(lambda: not worker.unacked)
    assert isinstance(events[0][1]["exception"], SoftTimeLimitExceeded)
    assert events[1][1]["result"] == "in spite of it"


def test_a_hard_limit_settles_the_task_even_if_it_resists(site_url: str) -> None:
    resisted = threading.Event()
    end = threading.Event()

    async def body(task: Any) -> None:
        while not end.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                resisted.set()

    with seen("task_failure") as events, running(OURS, site_url, body, time_limit=0.2) as worker:
        worker.send()
        wait_for(lambda: events)
        wait_for(lambda: not worker.unacked)
        assert resisted.wait(5)
        end.set()
        wait_for(lambda: not worker.worker.pool.jobs)
    assert [type(given["exception"]) for _, given in events] == [TimeLimitExceeded]


def test_a_body_outside_the_pool_is_refused() -> None:
    async def body() -> None:
        """Nothing."""

    with pytest.raises(RuntimeError, match="CoroutinePool"):
        awaited(body)()
