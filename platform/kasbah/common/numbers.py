"""Whole numbers that come as text: one parser for headers, query parameters and the arguments of commands.

A number is decimal digits, without sign, space or leading zeros, and within bounds; Python's own `int` also takes
"+5", "1_0", " 5 " and digits of other scripts, and refuses 5,000 digits in words of its own.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable

from kasbah.common.errors import Invalid

LARGEST_SIZE = 2**53 - 1  # of a log; what JSON numbers hold exactly (RFC 8259, section 6)
LARGEST_VERSION = 2**31 - 1  # a column of 32 bits

_DECIMAL = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def whole_number(text: str, least: int, most: int) -> int | None:
    """The number that `text` writes, None unless it is one from `least` (0 or more) to `most`.

    Takes no more time for a long text than for a short one: only as many digits as `most` has are ever converted.
    """
    if len(text) > len(str(most)) or _DECIMAL.fullmatch(text) is None:
        return None
    number = int(text)
    return number if least <= number <= most else None


def read_number(text: str, least: int, most: int, name: str, called: str = "a number") -> int:
    """The same for a header or parameter called `name`. Raises Invalid, which names it and quotes nothing."""
    number = whole_number(text, least, most)
    if number is None:
        raise Invalid(f"{name} is {called} from {least} to {most}, in digits alone.", param=name)
    return number


def number_argument(least: int, most: int, called: str = "a number") -> Callable[[str], int]:
    """A type for argparse, which names the option itself."""

    def number(text: str) -> int:
        found = whole_number(text, least, most)
        if found is None:
            raise ArgumentTypeError(f"{text[:40]!r} is not {called} from {least} to {most}")
        return found

    return number
