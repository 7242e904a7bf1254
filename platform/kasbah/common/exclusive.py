"""One at a time: two schedulers, or a tick that takes long, must not do the same work twice at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
