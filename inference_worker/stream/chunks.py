"""The engine's answer taken apart: events of a stream, chunks without `usage`, and the tokens counted. Of all of it
only documented fields go on (answers.py).

vLLM is asked for `continuous_usage_stats`, so that each chunk says how far it is and an answer that is cut off can
be metered. The counts stay here: a client gets `usage` from the gateway, which knows whether it asked.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from inference_worker.contract.frames import Data, Role
from inference_worker.contract.messages import Usage
from inference_worker.stream.answers import Choice, Embedded, Generated, TokenCounts, Tokenized
from inference_worker.stream.request import EMBEDDINGS, TOKENIZE


class EngineError(msgspec.Struct, frozen=True):
    """An error that the engine states: vLLM's error object."""

    message: str = ""
    type: str = ""
    param: str | None = None
    code: int | str | None = None


class _Chunk(Generated):
    """What an event may hold: a chunk, or an error."""

    error: EngineError | UnsetType | None = UNSET


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of an answer that is not 200."""

    error: EngineError


class StreamFailed(Exception):
    """The engine put an error into the stream."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(error.type)
        self.error = error


_chunk = msgspec.json.Decoder(_Chunk)
_generated = msgspec.json.Decoder(Generated)
_embedded = msgspec.json.Decoder(Embedded)
_tokenized = msgspec.json.Decoder(Tokenized)
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

    def see(self, choices: list[Choice], counts: TokenCounts) -> None:
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
    if chunk.error:
        raise StreamFailed(chunk.error)
    if chunk.usage:
        counter.see(chunk.choices, chunk.usage)
    if not chunk.choices:
        return None
    chunk.usage = chunk.error = UNSET
    text = _encode(chunk)
    return Data(text) if any(choice.has_content for choice in chunk.choices) else Role(text)


def answer_of(path: str, body: bytes) -> tuple[bytes, Usage]:
    """A whole answer as it leaves, and its counts; zero and inexact where it names none. Raises ValueError when it is
    not what `path` answers."""
    if path == TOKENIZE:
        tokenized = _tokenized.decode(body)
        return _encode(tokenized), Usage(tokenized.count, 0)
    answer = (_embedded if path == EMBEDDINGS else _generated).decode(body)
    counts = answer.usage
    usage = Usage(counts.prompt_tokens, counts.completion_tokens or 0) if counts else Usage(0, 0, exact=False)
    return _encode(answer), usage
