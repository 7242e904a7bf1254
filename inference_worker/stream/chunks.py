"""The engine's answer taken apart: events of a stream, chunks without `usage`, and the tokens counted.

vLLM is asked for `continuous_usage_stats`, so that each chunk says how far it is and an answer that is cut off can
be metered. The counts stay here: a client gets `usage` from the gateway, which knows whether it asked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inference_worker.contract.bounds import Tokens
from inference_worker.contract.frames import Data, Role
from inference_worker.contract.messages import Usage


class _Counts(msgspec.Struct):
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens | None = 0


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class EngineError(msgspec.Struct, frozen=True):
    """An error that the engine states: vLLM's error object."""

    message: str = ""
    type: str = ""
    param: str | None = None
    code: int | str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Counts | None = None
    error: EngineError | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of an answer that is not 200."""

    error: EngineError


class _Answer(msgspec.Struct):
    usage: _Counts | None = None
    count: Tokens | None = None  # /tokenize


class StreamFailed(Exception):
    """The engine put an error into the stream."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(error.type)
        self.error = error


_chunk = msgspec.json.Decoder(_Chunk)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_answer = msgspec.json.Decoder(_Answer)
_encode = msgspec.json.Encoder().encode


class Events:
    """Splits server-sent events (WHATWG HTML, 9.2) into the data of each; vLLM writes one `data:` line an event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete with `data`."""
        parts = (self._rest + data).split(b"\n\n")
        self._rest = parts.pop()
        return [part[6:] for part in parts if part.startswith(b"data: ")]


class Counter:
    """Tokens of one answer, over its choices and prompts (`n` choices for each prompt).

    A chunk's usage speaks of its own choice; the last chunk, which has no choices, of them all.
    """

    def __init__(self, n: int = 1, prompts: int = 1) -> None:
        self._n, self._expected = max(n, 1), prompts
        self._completion: dict[int, int] = {}
        self._prompt: dict[int, int] = {}
        self._total: Usage | None = None

    def see(self, choices: list[_Choice], counts: _Counts) -> None:
        """Take a chunk's counts in."""
        if not choices:
            self._total = Usage(counts.prompt_tokens, counts.completion_tokens or 0)
            return
        for choice in choices:
            self._completion[choice.index] = counts.completion_tokens or 0
            self._prompt[choice.index // self._n] = counts.prompt_tokens

    @property
    def usage(self) -> Usage:
        """The counts so far; inexact while a prompt has not been counted."""
        if self._total is not None:
            return self._total
        exact = len(self._prompt) >= self._expected
        return Usage(sum(self._prompt.values()), sum(self._completion.values()), exact)


def frame_of(event: bytes, counter: Counter) -> Role | Data | None:
    """The frame of one event, its counts taken; None for the usage chunk. Raises StreamFailed, ValueError."""
    chunk = _chunk.decode(event)
    if chunk.error is not None:
        raise StreamFailed(chunk.error)
    if chunk.usage is not None:
        counter.see(chunk.choices, chunk.usage)
    if not chunk.choices:
        return None
    fields = _fields.decode(event)
    if fields.pop("usage", None) is not None:
        event = _encode(fields)
    return Data(event) if any(map(_has_content, chunk.choices)) else Role(event)


def _has_content(choice: _Choice) -> bool:
    if choice.text or choice.finish_reason:
        return True
    delta = choice.delta
    return delta is not None and bool(
        delta.content
        or delta.reasoning
        or delta.reasoning_content
        or delta.refusal
        or delta.tool_calls
        or delta.function_call
    )


def usage_of(body: bytes) -> Usage:
    """The counts of a whole answer; zero and inexact where it names none. Raises ValueError when it is not JSON."""
    answer = _answer.decode(body)
    if answer.usage is not None:
        return Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens or 0)
    if answer.count is not None:
        return Usage(answer.count, 0)
    return Usage(0, 0, exact=False)
