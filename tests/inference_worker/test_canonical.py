"""Canonical JSON: what is recognised quickly is what `dumps` writes, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.contract import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_and_both_writers_agree(value: Any) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert msgspec.json.encode(value, order="sorted") == data


@given(VALUES, st.sampled_from([None, 1, 2]))
def test_another_spelling_is_refused(value: Any, indent: int | None) -> None:
    data = canonical.dumps(value)
    other = json.dumps(value, indent=indent, separators=(", ", " : ")).encode()
    if other != data:
        with pytest.raises(canonical.NotCanonical):
            canonical.loads(other)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "duplicate key"),
        (b'{"a":1.5}', "floats"),
        (b"1E2", "floats"),
        (b"-0", "not in canonical form"),
        (b"NaN", "floats"),
        (b"9007199254740992", "beyond"),
        (b'"\\u0061"', "not in canonical form"),
        (b'"\xff"', "not JSON"),
        (b'{"b":1,"a":2}', "not in canonical form"),
        ('{"ä":1}'.encode(), "not an ASCII string"),
        (b"1 ", "not in canonical form"),
        (b"[" * 5000 + b"]" * 5000, "not JSON"),
    ],
)
def test_what_is_refused_is_told_why(data: bytes, reason: str) -> None:
    with pytest.raises(canonical.NotCanonical, match=reason):
        canonical.loads(data)
