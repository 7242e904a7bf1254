"""The same work for several outside parties at once, so that a slow one delays nobody but itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connection

T = TypeVar("T")


def run_each(work: Callable[[T], int], items: Sequence[T], *, parallel: int, name: str) -> int:
    """Calls `work` for each item, each in a thread, at most `parallel` at once. Returns the sum of the results.

    Each thread gives its database connection back. `name` is that of the threads. Raises what `work` raises.
    """

    def run(item: T) -> int:
        try:
            return work(item)
        finally:
            connection.close()

    if not items:
        return 0
    with ThreadPoolExecutor(parallel, thread_name_prefix=name) as threads:
        return sum(threads.map(run, items))
