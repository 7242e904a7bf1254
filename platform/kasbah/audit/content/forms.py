"""Which bytes of an answer are committed to: a form that whoever has the answer can make again.

`body`: the exact bytes of the HTTP body, for prompts and for answers in one piece.
`stream`: canonical JSON (inference_worker.contract.canonical) of the choices, each joined from its chunks, because no
client library keeps the bytes of a stream:

    {"choices": [{"index": 0, "content": "...", "finish_reason": "stop"}]}

Choices stand in the order of `index`. `content`, `text`, `reasoning`, `reasoning_content` and `refusal` are the
chunks' strings joined; `finish_reason` the last one that came; `tool_calls` a list in the order of their index, each
with `index`, the first `id` and `name`, and `arguments` joined. What never came, or came empty, is left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inference_worker.contract import canonical

BODY, STREAM = "body", "stream"
TEXTS = ("content", "reasoning", "reasoning_content", "refusal")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


class _Joined:
    """One choice, or one call of a tool: strings by name, in pieces."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[str]] = {}
        self.calls: dict[int, _Joined] = {}

    def add(self, name: str, text: str | None) -> None:
        if text:
            self.pieces.setdefault(name, []).append(text)

    def first(self, name: str, text: str | None) -> None:
        if text:
            self.pieces.setdefault(name, [text])

    def last(self, name: str, text: str | None) -> None:
        if text:
            self.pieces[name] = [text]

    def value(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {"index": index, **{name: "".join(parts) for name, parts in self.pieces.items()}}
        if self.calls:
            found["tool_calls"] = [self.calls[number].value(number) for number in sorted(self.calls)]
        return found


class StreamForm:
    """Joins the chunks of one stream as they go out; holds their text alone."""

    def __init__(self) -> None:
        self._choices: dict[int, _Joined] = {}
        self._decoder = msgspec.json.Decoder(_Chunk)

    def add(self, chunk: bytes) -> None:
        """One chunk, JSON as the engine wrote it. Raises msgspec.MsgspecError."""
        for choice in self._decoder.decode(chunk).choices:
            joined = self._choices.setdefault(choice.index, _Joined())
            joined.add("text", choice.text)
            joined.last("finish_reason", choice.finish_reason)
            if choice.delta is not None:
                _join(joined, choice.delta)

    def bytes(self) -> bytes:
        """The form of what was added; empty when nothing was."""
        if not self._choices:
            return b""
        return canonical.dumps({"choices": [self._choices[index].value(index) for index in sorted(self._choices)]})


def _join(joined: _Joined, delta: _Delta) -> None:
    for name in TEXTS:
        joined.add(name, getattr(delta, name))
    for call in delta.tool_calls or ():
        tool = joined.calls.setdefault(call.index, _Joined())
        tool.first("id", call.id)
        if call.function is not None:
            tool.first("name", call.function.name)
            tool.add("arguments", call.function.arguments)
