"""Frames as server-sent events (WHATWG HTML, section 9.2): ids, usage, the end.

The engine knows nothing of whom it answers: its answers carry an id of its own and no usage. Here each chunk gets
the id under which the client can ask for the receipt, and `usage` where the client asked for it.
"""

from __future__ import annotations

import re
import time

import msgspec

from inference_worker.contract.frames import Data, Role
from inference_worker.contract.messages import Usage
from kasbah.common.errors import KasbahError
from kasbah.gateway.exchange import error_body

DONE = b"data: [DONE]\n\n"
WAITING = b": waiting\n\n"
_ID_LINE = re.compile(rb"^id: \d+-\d+\n", re.MULTILINE)  # JSON text has no line ends of its own
_LINE_ENDS = tuple((chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029))
_NO_USAGE = b',"usage":null}'


class _Head(msgspec.Struct):
    """What the usage chunk repeats of the chunks before it."""

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""


_head = msgspec.json.Decoder(_Head)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Renamed:
    """Puts `id` in the place of the engine's own in each JSON text of one answer."""

    def __init__(self, answer_id: str) -> None:
        self._id = answer_id
        self._ours = b'{"id":"%s"' % answer_id.encode()
        self._theirs = b""  # `{"id":"..."` of the engine, once seen

    def __call__(self, text: bytes) -> bytes:
        theirs = self._theirs
        if theirs and text.startswith(theirs):
            return self._ours + text[len(theirs) :]
        return self._slowly(text)

    def _slowly(self, text: bytes) -> bytes:
        fields = _fields.decode(text)
        old = fields.get("id")
        if old is None:
            return text
        start = b'{"id":' + bytes(old)
        if text.startswith(start):
            self._theirs = start
            return self._ours + text[len(start) :]
        return msgspec.json.encode({**fields, "id": self._id})


class Events:
    """Events of one attempt of one answer. With `ids` each has the line `id: <attempt>-<number>`, numbered from 1
    (Last-Event-ID); only a client that asked for resumption gets it, because some clients take an event for its
    `data:` line alone. Those up to `after` are left out: the client has them.
    """

    def __init__(self, answer_id: str, attempt: int, *, include_usage: bool, ids: bool = False, after: int = 0) -> None:
        self._rename = Renamed(answer_id)
        self._answer_id = answer_id
        self._include_usage = include_usage
        self._attempt = attempt
        self._ids = ids
        self._number = 0
        self._after = after
        self._last = b""

    def chunk(self, frame: Role | Data) -> bytes:
        """A chunk as an event, or nothing."""
        self._number += 1
        self._last = frame.chunk
        if self._number <= self._after:
            return b""
        text = _one_line(self._rename(frame.chunk))
        if self._include_usage:
            text = text[:-1] + _NO_USAGE
        if self._ids:
            return b"id: %d-%d\ndata: %s\n\n" % (self._attempt, self._number, text)
        return b"data: %s\n\n" % text

    def end(self, usage: Usage) -> bytes:
        """The usage chunk when it was asked for, and the end."""
        if not self._include_usage:
            return DONE
        head = _head.decode(self._last) if self._last else _Head(created=int(time.time()))
        chunk = {
            "id": self._answer_id,
            "object": head.object,
            "created": head.created,
            "model": head.model,
            "choices": [],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }
        return b"data: %s\n\n%s" % (msgspec.json.encode(chunk), DONE)


def _one_line(text: bytes) -> bytes:
    """JSON with U+0085, U+2028 and U+2029 escaped: text readers, such as Python's `splitlines`, end a line there,
    though the standard for events does not."""
    if b"\xe2\x80" in text or b"\xc2\x85" in text:
        for raw, escaped in _LINE_ENDS:
            text = text.replace(raw, escaped)
    return text


def without_ids(events: bytes) -> bytes:
    """Stored events without their `id:` lines, for a client that did not ask for resumption."""
    return _ID_LINE.sub(b"", events)


def error_event(error: KasbahError) -> bytes:
    """An error after the first token: the SDK raises on it, and the stream ends without [DONE]."""
    return b"data: %s\n\n" % error_body(error)
