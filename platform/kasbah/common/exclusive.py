"""One at a time: two schedulers, or a tick that takes long, must not do the same work twice at once.

And what must not happen between another's look and its deed waits until that transaction has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from django.db import connection


@contextmanager
def exclusive(name: str) -> Iterator[bool]:
    """Yield whether this process alone holds `name` now (PostgreSQL advisory lock of the session).

    The lock ends with the session, so that a process that dies leaves nothing locked.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"kasbah:{name}"])
        row = cursor.fetchone()
    held = bool(row and row[0])
    try:
        yield held
    finally:
        if held:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [f"kasbah:{name}"])


def one_run(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorates a periodic task: a tick does nothing while an earlier one still runs, here or in another process.

    So a task that waits for another machine takes one thread of housekeeping at most, however long it waits.
    """

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        @wraps(function)
        def run() -> None:
            with exclusive(name) as held:
                if held:
                    function()

        return run

    return decorate


def hold(name: str, *, shared: bool = False) -> None:
    """Take `name` until the transaction of the caller ends, and wait for it; `shared`: beside others that share it."""
    function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(hashtextextended(%s, 0))", [f"kasbah:{name}"])


def hold_now(name: str) -> bool:
    """Take `name` until the transaction of the caller ends, if nobody has it now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"kasbah:{name}"])
        row = cursor.fetchone()
    return bool(row and row[0])
