"""Whole numbers that come as text: digits within bounds, and nothing that only Python reads as a number."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError

import pytest

from kasbah.common.errors import Invalid
from kasbah.common.numbers import LARGEST_SIZE, number_argument, read_number, whole_number

OF_PYTHON = [" 5", "5 ", "+5", "-5", "1_0", "\u0665", "\uff15", "5\n", "05", "00"]
STRANGE = ["", "5.0", "5e1", "0x5", "\u00b2", "5\0", *OF_PYTHON]


@pytest.mark.parametrize("text", [*STRANGE, "0000000009999999", "301", "9" * 5000, "0" * 5000])
def test_what_is_no_number_within_the_bounds_is_refused_by_name(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_number(text, 0, 300, "kasbah-resume-within", "a number of seconds")
    assert refused.value.param == "kasbah-resume-within"
    assert refused.value.message.startswith("kasbah-resume-within is a number of seconds from 0 to 300")
    with pytest.raises(ArgumentTypeError, match="from 0 to 300"):
        number_argument(0, 300)(text)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("300", 300)])
def test_numbers_within_the_bounds_are_read(text: str, number: int) -> None:
    assert read_number(text, 0, 300, "limit") == number_argument(0, 300)(text) == number


def test_bounds_hold_at_both_ends() -> None:
    assert [whole_number(text, 2, 10) for text in ("1", "2", "10", "11")] == [None, 2, 10, None]
    assert whole_number(str(LARGEST_SIZE), 0, LARGEST_SIZE) == LARGEST_SIZE
    assert whole_number(str(LARGEST_SIZE + 1), 0, LARGEST_SIZE) is None


def test_a_long_text_costs_no_more_than_a_short_one() -> None:
    text, began = "9" * 10_000_000, time.perf_counter()
    assert whole_number(text, 0, LARGEST_SIZE) is None
    assert time.perf_counter() - began < 0.05


def test_python_alone_would_take_them() -> None:
    """Control: `int` reads these as numbers, and fails at 5,000 digits in words of its own."""
    assert [int(text) for text in OF_PYTHON] == [5, 5, 5, -5, 10, 5, 5, 5, 5, 0]
    with pytest.raises(ValueError, match="integer string conversion"):
        int("9" * 5000)
