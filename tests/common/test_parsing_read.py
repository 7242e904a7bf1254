"""Bodies of the management API that cost more to parse than they may say."""

from __future__ import annotations

import io
import json
import time

import pytest
from rest_framework.exceptions import ParseError

from kasbah.common import parsing
from kasbah.common.parsing import BODY_LIMIT, MOST_BRACKETS, StrictJSONParser


def parse(data: bytes) -> object:
    return StrictJSONParser().parse(io.BytesIO(data))


@pytest.mark.parametrize("one", [b"[]", b"{}", b"[[[]]]", b'{"a":[]}'])
def test_more_lists_and_objects_than_anybody_means_are_refused_unparsed(
    one: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may send one to the login, and parsing holds the process, streams included."""
    data = b"[" + b",".join([one] * ((BODY_LIMIT - 2) // (len(one) + 1))) + b"]"
    begun = time.thread_time()
    with pytest.raises(ParseError) as refused:
        parse(data)
    refusing = time.thread_time() - begun
    assert str(MOST_BRACKETS) in str(refused.value.detail)
    # The control: without the limit it is parsed, which takes many times as long.
    monkeypatch.setattr(parsing, "MOST_BRACKETS", BODY_LIMIT)
    begun = time.thread_time()
    assert parse(data)
    assert refusing < (time.thread_time() - begun) / 5


def test_a_large_policy_passes() -> None:
    rules = [{"id": f"r{number}", "models": ["*"], "sites": ["*"], "tags": ["a"]} for number in range(4000)]
    assert parse(json.dumps({"document": {"rules": rules}}).encode()) == {"document": {"rules": rules}}


def test_an_object_of_very_many_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps({f"f{number}": 0 for number in range(1001)}).encode()
    with pytest.raises(ParseError) as refused:
        parse(b'{"a":%b}' % data)
    assert "more than 1000 fields" in str(refused.value.detail)
    # The control: without the limit it is read.
    monkeypatch.setattr(parsing, "MOST_FIELDS", 10_000)
    assert parse(data)
