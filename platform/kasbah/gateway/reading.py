"""Large bodies become objects one at a time, and the event loop rests between them.

Parsing holds the loop: 4 MiB of the smallest messages take a tenth of a second. Where one caller sends many at once,
the others' requests and streams would wait for all of them; so they wait for one, and the callers take turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from kasbah.common.shares import FairQueue

LARGE = 128 * 1024  # bytes; smaller ones take 3 ms at most
PATIENCE = 10.0  # seconds

Result = TypeVar("Result")


class Reading:
    """Has the bodies of one process parsed and checked."""

    def __init__(self) -> None:
        self._turns = FairQueue("A turn to read a large body", 1, PATIENCE)

    async def read(self, size: int, caller: Hashable, work: Callable[[], Result]) -> Result:
        """What `work` makes of a body of `size` bytes. For a large one it waits for its turn, which lasts twice as long
        as the work. Raises what the work raises, and Unavailable."""
        if size <= LARGE:
            return work()
        async with self._turns.turn(caller):
            begun = time.perf_counter()
            try:
                return work()
            finally:
                await asyncio.sleep(time.perf_counter() - begun)
