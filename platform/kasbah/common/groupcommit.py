"""Group commit: what arrives while one write is under way goes into the next one, together.

No timer: idle, an item is written at once; under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from psycopg import DataError, IntegrityError

Item = TypeVar("Item")


class GroupCommit(Generic[Item]):
    """Calls `flush` with up to `max_batch` items, one call at a time, in the order of `submit`.

    An error of `flush` reaches each waiter of its batch. But when the database found fault with a row
    (IntegrityError, DataError: nothing of the batch was written), each item is tried by itself, so that one bad
    item fails alone. `flush` must write all or nothing.
    """

    def __init__(self, flush: Callable[[list[Item]], Awaitable[None]], max_batch: int = 256) -> None:
        self._flush = flush
        self._max_batch = max_batch
        self._waiting: deque[tuple[Item, asyncio.Future[None]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> None:
        """Returns when `item` is committed; raises what its flush raised.

        When cancelled before its batch began the item is not written; after that it is, and nobody waits.
        """
        await self.add(item)

    def add(self, item: Item) -> asyncio.Future[None]:
        """The same without waiting; what a caller awaits through `asyncio.shield` is written though he leaves."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name="group-commit")
        return written

    async def close(self) -> None:
        """Wait until everything submitted is written."""
        while self._worker is not None:
            await asyncio.shield(self._worker)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[Item, asyncio.Future[None]]] = []
                while self._waiting and len(batch) < self._max_batch:
                    entry = self._waiting.popleft()
                    if not entry[1].cancelled():
                        batch.append(entry)
                if batch:
                    await self._write(batch)
        finally:
            self._worker = None
            for _, written in self._waiting:  # only when this task itself was cancelled
                written.cancel()
            self._waiting.clear()

    async def _write(self, batch: list[tuple[Item, asyncio.Future[None]]]) -> None:
        try:
            await self._flush([item for item, _ in batch])
        except (IntegrityError, DataError) as error:
            if len(batch) == 1:
                _finish(batch, error)
            else:
                for entry in batch:
                    await self._write([entry])
        except asyncio.CancelledError:
            for _, written in batch:
                written.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is the waiters' error, whatever it is
            _finish(batch, error)
        else:
            _finish(batch, None)


def _finish(batch: list[tuple[Item, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, written in batch:
        if written.done():
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
