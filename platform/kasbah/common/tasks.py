"""Ending tasks that run for ever.

Python 3.11's `asyncio.wait_for` loses a cancellation that arrives together with what it waited for (CPython issue
86296, mended in 3.12), and psycopg and others wait through it. So `task.cancel()` followed by `await task` can hang.
"""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 0.2  # seconds after which a task that goes on is cancelled again


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` until each has ended; their results and errors are left where they are."""
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=AGAIN)
