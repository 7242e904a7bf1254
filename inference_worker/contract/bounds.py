"""Bounds of what a message may hold: whoever sends it is believed no further than a column or a line is long.

A field with one of these types is checked when the message is decoded. `line` makes any text fit, on the side that
sends it, so that what an engine or a file says never makes a whole report unreadable.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

TOKEN = 64 * 1024  # characters of a signed token; an assignment with a manifest of many files is longer
LINE = 300
# Control characters (C0, C1), line separators, marks that turn the direction of text, and halves of a code point.
UNPRINTABLE = "\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
_UNPRINTABLE = re.compile(f"[{UNPRINTABLE}]")
_PRINTABLE = rf"\A[^{UNPRINTABLE}]*\Z"

Count = Annotated[int, Meta(ge=0, le=2**48)]  # what is counted since a start, or bytes: a sum of many fits too
Tokens = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # a column of four bytes
Attempt = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[int, Meta(ge=0, le=2**40)]  # since the epoch
Id = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_-]*\Z")]  # of a row, a key, a start or a nonce
Digest = Annotated[str, Meta(max_length=128, pattern=r"\A[0-9a-f]*\Z")]
Word = Annotated[str, Meta(max_length=63, pattern=r"\A[a-z0-9_.-]*\Z")]  # a state or a code
Label = Annotated[str, Meta(max_length=60, pattern=_PRINTABLE)]
Line = Annotated[str, Meta(max_length=LINE, pattern=_PRINTABLE)]


def line(text: str, most: int = LINE) -> str:
    """The text in one printable line of at most `most` characters."""
    shown = _UNPRINTABLE.sub(" ", text).strip()
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
