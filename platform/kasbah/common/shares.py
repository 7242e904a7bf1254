"""Pools that callers share, such as tenants: who holds most of one waits, or is refused, before those who hold less.

Two ways, for two kinds of holding. What is held for long (a stream, a simulation) is refused at once where the caller
has its share: at most as much as is still free for others, so that there is always room for who comes new (the
dynamic threshold of Choudhury and Hahne, 1998, with a factor of one). What is held for moments (a connection, a
thread) is waited for, and given in turn to the waiting caller who holds least.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from kasbah.common.errors import RateLimited, Unavailable


class SharedPool:
    """`size` places; `what` names the thing in plain words, many of it. Threads may use it."""

    def __init__(self, what: str, size: int) -> None:
        self._what = what
        self._free = size
        self._held: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, caller: Hashable, count: int = 1) -> Iterator[None]:
        """So many places. Raises RateLimited when `caller` has its share, Unavailable when others have all."""
        with self._lock:
            held = self._held[caller]
            if held + count > self._free:
                raise self._refusal(held)
            self._free -= count
            self._held[caller] += count
        try:
            yield
        finally:
            with self._lock:
                self._free += count
                self._held[caller] -= count
                if not self._held[caller]:
                    del self._held[caller]

    def _refusal(self, held: int) -> RateLimited | Unavailable:
        if held:
            return RateLimited(
                f"You have {held} {self._what} under way here, which is your share. Wait until one ends.",
                code="share_used",
                retry_after=1,
            )
        return Unavailable(f"All {self._what} that this server has room for are under way. Try again.", retry_after=1)


class FairQueue:
    """`size` places, for one event loop. Waiting callers take turns, however many of them one has sent."""

    def __init__(self, what: str, size: int, patience: float) -> None:
        self._what = what
        self._free = size
        self._patience = patience  # seconds
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, caller: Hashable) -> AsyncIterator[None]:
        """One place, waited for. Raises Unavailable when none came in time."""
        try:
            async with asyncio.timeout(self._patience):
                await self._enter(caller)
        except TimeoutError as error:
            raise Unavailable(f"{self._what} did not come free in time. Try again.", retry_after=2) from error
        try:
            yield
        finally:
            self._leave(caller)

    async def _enter(self, caller: Hashable) -> None:
        if self._free and not self._waiting:
            self._take(caller)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(place)
        self._give()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given at the same moment
                self._leave(caller)
            raise

    def _take(self, caller: Hashable) -> None:
        self._free -= 1
        self._held[caller] += 1

    def _leave(self, caller: Hashable) -> None:
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        self._give()

    def _give(self) -> None:
        while self._free and self._waiting:
            caller = min(self._waiting, key=lambda waiting: self._held.get(waiting, 0))
            places = self._waiting.pop(caller)
            place = places.popleft()
            if places:
                self._waiting[caller] = places  # behind those who hold as little
            if not place.done():  # else its caller has left
                self._take(caller)
                place.set_result(None)
