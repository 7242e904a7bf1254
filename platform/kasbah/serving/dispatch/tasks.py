"""Ending asyncio tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_AFTER = 0.2  # seconds


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until each has ended: a library that swallows one cancellation must not keep a process from ending."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_AFTER)
