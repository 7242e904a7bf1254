"""Group commit: together, in order, all or nothing, and an error reaches who must know."""

from __future__ import annotations

import asyncio

import pytest
from psycopg import IntegrityError

from kasbah.common.groupcommit import GroupCommit


class Writer:
    """A flush that takes a turn of the loop and fails for the items it is told to."""

    def __init__(self, error: Exception | None = None, bad: frozenset[int] = frozenset()) -> None:
        self.batches: list[list[int]] = []
        self.written: list[int] = []
        self._error, self._bad = error, bad

    async def flush(self, items: list[int]) -> None:
        self.batches.append(items)
        await asyncio.sleep(0.001)
        if self._error is not None and self._bad & set(items):
            raise self._error
        self.written += items


async def test_what_arrives_meanwhile_goes_together_in_order() -> None:
    writer = Writer()
    group = GroupCommit(writer.flush, max_batch=8)
    await asyncio.gather(*(group.submit(number) for number in range(20)))
    assert writer.written == list(range(20))
    assert [len(batch) for batch in writer.batches] == [8, 8, 4]
    await group.submit(99)
    assert writer.batches[-1] == [99]


async def test_submit_returns_only_after_the_write() -> None:
    writer = Writer()
    group = GroupCommit(writer.flush)
    first, second = asyncio.create_task(group.submit(1)), asyncio.create_task(group.submit(2))
    await first
    assert 1 in writer.written
    await second
    assert 2 in writer.written


async def test_an_error_reaches_each_waiter_and_the_next_batch_goes_on() -> None:
    writer = Writer(OSError("away"), frozenset({0}))
    group = GroupCommit(writer.flush, max_batch=4)
    results = await asyncio.gather(*(group.submit(number) for number in range(6)), return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 4 + [type(None)] * 2
    assert writer.written == [4, 5]


async def test_a_bad_row_fails_alone() -> None:
    writer = Writer(IntegrityError("bad"), frozenset({2}))
    group = GroupCommit(writer.flush)
    results = await asyncio.gather(*(group.submit(number) for number in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [IntegrityError] + [type(None)] * 2
    assert writer.written == [0, 1, 3, 4]


async def test_who_left_before_the_write_began_is_not_written() -> None:
    writer = Writer()
    group = GroupCommit(writer.flush, max_batch=1)
    first, second, third = (asyncio.create_task(group.submit(number)) for number in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, third)
    assert writer.written == [0, 2]
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_who_left_during_the_write_is_written() -> None:
    writer = Writer()
    group = GroupCommit(writer.flush)
    task = asyncio.create_task(group.submit(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert writer.batches == [[1]]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await group.close()
    assert writer.written == [1]
