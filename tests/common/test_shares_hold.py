"""Pools that callers share: one who floods them leaves room for the others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import ExitStack

import pytest

from kasbah.common.errors import KasbahError, RateLimited, Unavailable
from kasbah.common.shares import FairQueue, SharedPool


def flood(pool: SharedPool, caller: str, held: ExitStack, most: int = 1000) -> tuple[int, KasbahError | None]:
    """Take places until one is refused: how many, and why no more."""
    for number in range(most):
        try:
            held.enter_context(pool.hold(caller))
        except KasbahError as error:
            return number, error
    return most, None


@pytest.mark.parametrize(("size", "first"), [(64, 32), (4, 2), (3, 2), (2, 1), (1, 1)])
def test_one_caller_gets_no_more_than_it_leaves(size: int, first: int) -> None:
    with ExitStack() as held:
        number, error = flood(SharedPool("streams", size), "finance", held)
        assert number == first
        assert isinstance(error, RateLimited)
        assert error.code == "share_used"
        assert "streams" in error.message


def test_there_is_room_for_who_comes_new() -> None:
    pool = SharedPool("streams", 64)
    with ExitStack() as held:
        shares = [flood(pool, tenant, held)[0] for tenant in ("finance", "hospital", "court", "port", "school", "mill")]
        assert shares == [32, 16, 8, 4, 2, 1]
        assert flood(pool, "last", held)[0] == 1
        number, error = flood(pool, "too late", held)
        assert (number, type(error)) == (0, Unavailable)
    with ExitStack() as held:
        assert flood(pool, "finance", held)[0] == 32  # all was given back


def test_without_shares_one_caller_takes_all() -> None:
    """Control: the same flood under names that are all new takes every place, and the next caller gets none."""
    pool = SharedPool("streams", 64)
    with ExitStack() as held:
        for number in range(64):
            held.enter_context(pool.hold(number))
        assert flood(pool, "hospital", held)[0] == 0


def test_threads_lose_no_place() -> None:
    pool = SharedPool("runs", 8)

    def work() -> None:
        for _ in range(500):
            with contextlib.suppress(KasbahError), pool.hold(threading.get_ident()):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (pool._free, dict(pool._held)) == (8, {})


async def served(queue: FairQueue, callers: list[str]) -> list[str]:
    """Who had a turn, in order, when all of them ask at once."""
    order: list[str] = []

    async def ask(caller: str) -> None:
        async with queue.turn(caller):
            order.append(caller)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(ask(caller) for caller in callers))
    return order


@pytest.mark.parametrize("size", [1, 2, 4])
async def test_a_flood_makes_nobody_else_wait(size: int) -> None:
    order = await served(FairQueue("a thread", size, 5), ["finance"] * 200 + ["hospital"] * 3)
    assert len(order) == 203
    places = [place for place, caller in enumerate(order) if caller == "hospital"]
    assert places[0] <= 2 * size, "those under way, and one turn of the other"
    assert places[-1] <= 4 * size + 3


async def test_in_a_plain_queue_the_others_come_last() -> None:
    """Control: where all are one caller, the flood is served first."""
    order: list[str] = []
    queue = FairQueue("a thread", 2, 5)

    async def ask(caller: str) -> None:
        async with queue.turn("everybody"):
            order.append(caller)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(ask(caller) for caller in ["finance"] * 200 + ["hospital"]))
    assert order.index("hospital") == 200


async def test_who_waits_too_long_or_leaves_takes_no_place() -> None:
    queue = FairQueue("a thread", 1, 0.05)
    async with queue.turn("finance"):
        with pytest.raises(Unavailable, match="a thread did not come free"):
            async with queue.turn("hospital"):
                pass
        leaving = asyncio.create_task(served(queue, ["court"]))
        await asyncio.sleep(0)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
    assert await served(queue, ["hospital", "finance"]) == ["hospital", "finance"]
    assert (queue._free, dict(queue._held), queue._waiting) == (1, {}, {})


async def test_a_place_that_was_given_to_one_who_left_goes_on() -> None:
    queue = FairQueue("a thread", 1, 5)
    async with queue.turn("finance"):
        leaving = asyncio.create_task(served(queue, ["court"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    leaving.cancel()  # after its place was given, before it woke
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    assert await served(queue, ["hospital"]) == ["hospital"]
    assert queue._free == 1
