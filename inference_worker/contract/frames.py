"""Frames: what a worker sends of an answer, packed, sealed and numbered.

One stream entry holds all frames that gathered while the previous write was under way (msgpack list).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from inference_worker.contract.bounds import TOKEN, Line, Word
from inference_worker.contract.messages import Usage


class Role(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """A chunk without content (the assistant's role): JSON bytes of an OpenAI chunk without `usage`."""

    chunk: bytes


class Data(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """A content chunk: JSON bytes of an OpenAI chunk without `usage`."""

    chunk: bytes


class Body(msgspec.Struct, frozen=True, tag="b", array_like=True):
    """The whole JSON answer of a request that does not stream."""

    body: bytes


class Done(msgspec.Struct, frozen=True, tag="z", array_like=True):
    """Last frame of an answer that ended: `receipt` is the signed token; cancelled when the client went away."""

    usage: Usage
    receipt: Annotated[str, Meta(max_length=TOKEN)]
    cancelled: bool = False


class Failed(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """Last frame of an answer that failed. `retry` says that another worker may succeed.

    `status` is the HTTP status for the client; `code` and `param` as in api.md; `receipt` is "" when the
    job was refused before it was opened.
    """

    status: Annotated[int, Meta(ge=400, le=599)]
    code: Word
    message: Annotated[str, Meta(max_length=4000)]
    usage: Usage
    receipt: Annotated[str, Meta(max_length=TOKEN)] = ""
    param: Line | None = None
    retry: bool = False


Frame = Role | Data | Body | Done | Failed

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Frame])


def pack(frames: list[Frame]) -> bytes:
    """Frames as msgpack."""
    return _encoder.encode(frames)


def unpack(data: bytes) -> list[Frame]:
    """The reverse of `pack`. Raises msgspec.ValidationError for whatever is none, or is out of bounds."""
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.ValidationError(f"not frames: {type(error).__name__}") from error


def is_terminal(frame: Frame) -> bool:
    """Whether nothing follows this frame."""
    return isinstance(frame, (Done, Failed))
