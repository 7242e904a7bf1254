"""A task that runs for ever ends although a cancellation was lost."""

from __future__ import annotations

import asyncio

import pytest

from kasbah.common.tasks import stop


async def forever(losses: int, seen: list[int]) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(1)
            if len(seen) > losses:
                raise


@pytest.mark.parametrize("losses", [0, 1, 3])
async def test_a_lost_cancellation_is_made_again(losses: int) -> None:
    seen: list[int] = []
    task = asyncio.create_task(forever(losses, seen))
    await asyncio.sleep(0)
    await stop(task)
    assert task.cancelled()
    assert len(seen) == losses + 1


async def test_ended_tasks_and_failing_ones_are_left_as_they_are() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    done = asyncio.create_task(asyncio.sleep(0, "result"))
    failing = asyncio.create_task(fail())
    await asyncio.sleep(0.01)
    await stop(done, failing)
    assert done.result() == "result"
    assert isinstance(failing.exception(), ZeroDivisionError)


async def test_python_loses_a_cancellation_that_comes_with_the_result() -> None:
    """What makes `stop` necessary. When this fails Python has been mended, and `stop` may be simpler."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait() -> str:
        await asyncio.wait_for(ready, 60)
        return "went on"

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    ready.set_result(None)
    task.cancel()
    assert await task == "went on"
