"""What the worker does not look at of a request stays JSON: its loop serves others meanwhile."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from inference_worker.contract.messages import Payload
from inference_worker.stream import request
from inference_worker.stream.request import CHAT, COMPLETIONS, EMBEDDINGS, RequestRefused, prepare

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}


def prepared(fields: dict[str, Any], path: str = CHAT) -> request.EngineRequest:
    return prepared_bytes(json.dumps({"model": "x", **fields}).encode(), path)


def prepared_bytes(body: bytes, path: str = CHAT) -> request.EngineRequest:
    return prepare(Payload(path=path, stream=False, body=body, reply_secret=b""), model="mini", salt="s")


def test_a_long_conversation_is_passed_on_unread() -> None:
    body = json.dumps({"messages": [{"role": "assistant", "tool_calls": [CALL] * 20}] * 2000}).encode()
    begun = time.thread_time()
    asked = prepared_bytes(body)
    took = time.thread_time() - begun
    # The control: made into objects, it takes several times as long.
    begun = time.thread_time()
    fields = msgspec.json.decode(body)
    assert took < (time.thread_time() - begun) / 3
    assert msgspec.json.decode(asked.body) == {**fields, "model": "mini", "cache_salt": "s", "stream": False}
    counted = request.to_count(asked)
    assert counted is not None
    assert msgspec.json.decode(counted) == {**fields, "model": "mini"}


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2), ([], 1), (None, 1)],
)
def test_prompts_are_counted_without_being_read(prompt: Any, count: int) -> None:
    assert prepared({"prompt": prompt}, COMPLETIONS).prompts == count


def test_null_says_nothing_and_what_no_program_holds_is_refused_by_name() -> None:
    assert prepared({"n": None, "chat_template": None, "tools": None, "response_format": None}).n == 1
    assert request.to_count(prepared({"input": ["a"]}, EMBEDDINGS)) is None
    with pytest.raises(RequestRefused) as refused:
        prepared_bytes(b'{"n":1e999}')
    assert refused.value.param == "n"
    for body in (b"[]", b"{", b"5"):
        with pytest.raises(RequestRefused):
            prepared_bytes(body)
