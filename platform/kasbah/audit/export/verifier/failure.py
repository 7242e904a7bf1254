"""What does not hold, and how it is said."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

Facts = dict[str, Any]
# What a document of the wrong shape makes of the code that reads it.
MISSHAPEN = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, struct.error)
# Names of what an export cannot show. They accuse nobody.
UNDECIDED = ("receipt_not_in_export", "consistency_missing")


class Failed(Exception):
    """What does not hold. `name` is stable; there is one for each known attack."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@contextlib.contextmanager
def reading(what: str, name: str = "document_malformed") -> Iterator[None]:
    """Whatever is wrong with the shape of a document gets a name."""
    try:
        yield
    except MISSHAPEN as error:
        raise Failed(name, f"{what}: {type(error).__name__}: {error}") from error


def printable(text: str) -> str:
    """Text of the export without what a terminal would obey or turn round, or could not show at all."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def readable(time: str) -> str:
    """An event's time for people, in UTC, to the second."""
    return f"{time[:10]} {time[11:19]} UTC" if len(time) > 19 else "at no time"
