"""Of an engine's answer only the documented fields leave, and these as they came."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from inference_worker.contract.frames import Data
from inference_worker.contract.messages import Usage
from inference_worker.stream import answers, chunks
from inference_worker.stream.request import CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE

REFERENCE = Path(__file__).parents[2] / "docs" / "developer" / "reference.md"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOP = {"token": "a", "logprob": -0.5, "bytes": [97]}
USAGE = {
    "prompt_tokens": 3,
    "total_tokens": 5,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": None,
}
MESSAGE: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": None,
    "audio": None,
    "function_call": None,
    "tool_calls": [CALL],
    "reasoning": "hm",
}
SHORT = {"id": "x", "object": "o", "created": 7, "model": "m"}
HEAD = {**SHORT, "service_tier": None, "system_fingerprint": None}
LOGPROBS = {"content": [{**TOP, "top_logprobs": [TOP]}]}
CHAT_ANSWER = {
    **HEAD,
    "choices": [
        {"index": 0, "message": MESSAGE, "logprobs": LOGPROBS, "finish_reason": "tool_calls", "stop_reason": None}
    ],
    "usage": USAGE,
}
OLD_LOGPROBS = {
    "text_offset": [0],
    "token_logprobs": [None, -1.5],
    "tokens": ["a"],
    "top_logprobs": [None, {"a": -1.5}],
}
ANSWERS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, CHAT_ANSWER),
    (COMPLETIONS, {**HEAD, "choices": [{"index": 0, "text": "a", "logprobs": OLD_LOGPROBS}], "usage": USAGE}),
    (EMBEDDINGS, {**SHORT, "data": [{"index": 0, "object": "embedding", "embedding": [0.1, -2e-9]}], "usage": USAGE}),
    (EMBEDDINGS, {**SHORT, "data": [{"index": 0, "object": "embedding", "embedding": "AAAA"}], "usage": USAGE}),
    (TOKENIZE, {"count": 3, "max_model_len": 2048, "tokens": [1, 2, 3], "token_strs": None}),
]


def with_secrets(value: Any) -> Any:
    """The same with fields of the engine's own in every object, as deep as it goes."""
    if isinstance(value, dict):
        # token probabilities by token are data, not fields
        own = {} if set(value) == {"a"} else {"kv_transfer_params": {"host": "SECRET"}, "x_SECRET": [1]}
        return {**own, **{name: with_secrets(item) for name, item in value.items()}, **own}
    return [with_secrets(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("path", "answer"), ANSWERS)
def test_a_whole_answer_loses_the_engines_own_fields_at_every_depth(path: str, answer: dict[str, Any]) -> None:
    body = json.dumps(with_secrets(answer)).encode()
    assert body.count(b"SECRET") > 1
    given, usage = chunks.answer_of(path, body)
    assert json.loads(given) == answer
    assert usage == (Usage(3, 0) if path == TOKENIZE else Usage(3, 2))


@pytest.mark.parametrize(("path", "answer"), ANSWERS[:2])
def test_a_chunk_loses_them_too(path: str, answer: dict[str, Any]) -> None:
    text = json.dumps(answer).replace('"message"', '"delta"')
    chunk = json.loads(text)
    frame = chunks.frame_of(json.dumps(with_secrets(chunk)).encode(), chunks.Counter())
    assert isinstance(frame, Data)
    del chunk["usage"]
    assert json.loads(frame.chunk) == chunk


def test_control_a_structure_that_names_the_field_lets_it_out() -> None:
    class Leaky(answers.Generated):
        kv_transfer_params: Any = msgspec.UNSET

    body = json.dumps(with_secrets(CHAT_ANSWER)).encode()
    assert b"SECRET" in msgspec.json.encode(msgspec.json.decode(body, type=Leaky))


def fields_of(kind: type[msgspec.Struct]) -> set[str]:
    """All names that a structure, and those within it, let out."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        found.add(name)
        for inner in _structs(hint):
            found |= fields_of(inner)
    return found


def _structs(hint: Any) -> list[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [struct for argument in get_args(hint) for struct in _structs(argument)]


def test_what_leaves_is_documented_and_what_is_documented_leaves() -> None:
    section = REFERENCE.read_text().split("## Answers\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    kinds = (answers.Generated, answers.Embedded, answers.Tokenized)
    assert documented == set().union(*(fields_of(kind) for kind in kinds))
