"""Ids sort as they were made, also within a millisecond: what is read in the order of ids is in the order of events."""

from __future__ import annotations

import time

from kasbah.common.ids import uuid7


def test_ids_sort_as_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid7() for _ in range(5_000)]
    after = time.time_ns() // 1_000_000
    times = [item.int >> 64 for item in made]
    assert times == sorted(times)
    assert len(set(times)) > 2 * (after - before + 1), "the milliseconds alone would not tell them apart"
    assert len(set(made)) == len(made)
    assert all(before <= item.int >> 80 <= after for item in made)
    assert {(item.version, item.variant) for item in made} == {(7, "specified in RFC 4122")}
