"""Enrolment over a broker that is not trusted: the one-time token authenticates and seals both directions.

The token holds an id and a secret. The worker's request and the control plane's answer are sealed under keys
derived from the secret, which never crosses the broker; so neither can be read, forged or swapped there.
"""

from __future__ import annotations

import os
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from inference_worker.contract import sealing
from inference_worker.contract.bounds import Id, Line
from inference_worker.contract.signing import BadToken, b64, unb64

PREFIX = "kse_"


class EnrolmentSecret(msgspec.Struct, frozen=True):
    """The parts of a token: `token_id` (UUID) and the 32-byte secret."""

    token_id: str
    secret: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker asks: its name, its raw public keys (base64url) and the site it believes to be at."""

    name: Line
    site: Line  # slug, as given on the command line
    public_key: Id  # Ed25519: its identity
    box_key: Id  # X25519: what the control plane seals for it
    nonce: Id


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the control plane answers: on refusal `error` says why and the rest is empty. Keys raw, base64url.

    `pending`: the worker is known, and gets nothing until a person approves it; it asks again with the same token.
    """

    nonce: Id
    error: Line = ""
    pending: bool = False
    worker: Id = ""
    site: Id = ""  # the site's id
    control_keys: Annotated[list[Id], Meta(max_length=20)] = []  # Ed25519 public keys that sign tickets and assignments


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it lies in the report stream."""

    token_id: Id
    nonce: Id
    box: Annotated[bytes, Meta(max_length=16 * 1024)]


def new_token(token_id: str) -> tuple[str, bytes]:
    """The text to hand to the operator, and its 32-byte secret."""
    secret = os.urandom(32)
    return PREFIX + b64(UUID(token_id).bytes + secret), secret


def parse_token(token: str) -> EnrolmentSecret:
    """Take a token apart. Raises BadToken with what to do."""
    raw = unb64(token.removeprefix(PREFIX)) if token.startswith(PREFIX) else b""
    if len(raw) != 48:
        raise BadToken(f"an enrolment token starts with {PREFIX} and is 68 characters long; copy it whole")
    return EnrolmentSecret(str(UUID(bytes=raw[:16])), raw[16:])


def seal_request(parts: EnrolmentSecret, request: Request) -> bytes:
    """The request as an encoded Envelope."""
    key = sealing.derive(parts.secret, "kasbah-enrol-request-v1")
    box = sealing.seal_box(key, msgspec.json.encode(request), f"enrol-request:{parts.token_id}:{request.nonce}")
    return msgspec.msgpack.encode(Envelope(token_id=parts.token_id, nonce=request.nonce, box=box))


def open_request(envelope: Envelope, secret: bytes) -> Request:
    """The control plane's side. Raises sealing.CannotOpen."""
    key = sealing.derive(secret, "kasbah-enrol-request-v1")
    box = sealing.open_box(key, envelope.box, f"enrol-request:{envelope.token_id}:{envelope.nonce}")
    return msgspec.json.decode(box, type=Request)


def seal_answer(secret: bytes, answer: Answer) -> bytes:
    """The answer, sealed for the holder of the token."""
    key = sealing.derive(secret, "kasbah-enrol-answer-v1")
    return sealing.seal_box(key, msgspec.json.encode(answer), f"enrol-answer:{answer.nonce}")


def open_answer(parts: EnrolmentSecret, nonce: str, box: bytes) -> Answer:
    """The worker's side. Raises sealing.CannotOpen."""
    key = sealing.derive(parts.secret, "kasbah-enrol-answer-v1")
    return msgspec.json.decode(sealing.open_box(key, box, f"enrol-answer:{nonce}"), type=Answer)
