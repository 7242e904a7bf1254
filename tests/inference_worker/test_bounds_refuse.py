"""What a message may hold: bounds are checked when it is decoded, and a sender's own text is made to fit."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from inference_worker.contract import canonical, enrolment, frames, messages
from inference_worker.contract.bounds import LINE, line
from inference_worker.contract.messages import JobMessage, Receipt, Refusal, Report, Served, checked
from inference_worker.contract.signing import BadToken, Purpose, Signer, Verifier

SIGNER = Signer.from_raw(os.urandom(32))
VERIFIER = Verifier([SIGNER.public])
REPORT: dict[str, Any] = {
    "worker": "w", "site": "s", "sequence": 1, "time": 1, "state": "active", "served": [], "hardware": {},
    "engine": "vllm",
}  # fmt: skip
USAGE = {"prompt_tokens": 1, "completion_tokens": 1}
SERVED: dict[str, Any] = {"deployment": "d", "model_digest": "", "state": "ready"}


def taken(kind: type[msgspec.Struct], fields: dict[str, Any]) -> msgspec.Struct:
    return checked(VERIFIER, Purpose.REPORT, SIGNER.sign(Purpose.REPORT, fields), kind)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stale", -5),
        ("refused", 2**50),
        ("answered", -1),
        ("time", -1),
        ("sequence", -1),
        ("engine", "vllm\x00"),
        ("engine", "x" * 61),
        ("engine", "a\x1b[2Jb"),
        ("start", "\u202e"),
        ("start", "x" * 65),
        ("state", "active\n"),
        ("trouble", "x" * (LINE + 1)),
        ("trouble", "\x85"),
        ("trusts", ["k"] * 21),
        ("opens", ["\x00"]),
        ("served", [SERVED] * 257),
        ("served", [SERVED | {"running": -1}]),
        ("served", [SERVED | {"capacity": 2**31}]),
        ("served", [SERVED | {"detail": "a\nb"}]),
        ("served", [SERVED | {"model_digest": "no hex"}]),
        ("hardware", {"cpu": "\x00"}),
        ("hardware", {"cores": -1}),
        ("hardware", {"gpus": [{"name": "\x07", "memory_bytes": 1}]}),
        ("hardware", {"gpus": [{"name": "a", "memory_bytes": 1}] * 65}),
        ("egress", [{"process": "worker", "destination": "a\nb:1", "count": 1, "first": 1, "last": 1}]),
        ("egress", [{"process": "worker", "destination": "a:1", "count": -1, "first": 1, "last": 1}]),
        ("egress", [{"process": "worker", "destination": "a:1", "count": 1, "first": 1, "last": 2**62 // 2**10}]),
    ],
)
def test_report_out_of_bounds_is_refused_and_the_field_named(field: str, value: Any) -> None:
    with pytest.raises(BadToken, match=rf"not a Report: .*\$\.{field}"):
        taken(Report, REPORT | {field: value})
    assert isinstance(taken(Report, REPORT), Report)  # the control


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Refusal, {"worker": "w", "site": "s", "job": "j\x00", "attempt": 1, "code": "replayed", "time": 1}),
        (Refusal, {"worker": "w", "site": "s", "job": "j", "attempt": -1, "code": "replayed", "time": 1}),
        (Refusal, {"worker": "w", "site": "s", "job": "j", "attempt": 1, "code": "A\n", "time": 1}),
        (Receipt, {"job": "j", "attempt": 1, "prompt_tokens": -1}),
    ],
)
def test_other_signed_messages_have_bounds_too(kind: type[msgspec.Struct], fields: dict[str, Any]) -> None:
    with pytest.raises(BadToken, match="not a"):
        taken(kind, fields)


@pytest.mark.parametrize("changes", [{"job": "j" * 65}, {"attempt": 2**53}, {"attempt": -1}, {"reply_to": "a\nb"}])
def test_job_message_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    fields = {"job": "j", "attempt": 1, "ticket": "t", "payload": "p", "reply_to": "web-1-ab"}
    assert msgspec.convert(fields, JobMessage).job == "j"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields | changes, JobMessage)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'{"a":' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff"])
def test_payload_that_json_libraries_trip_over_is_not_canonical(text: bytes) -> None:
    """A surrogate and an integer of 5,000 digits raised errors that nobody expected, and ended the tick."""
    with pytest.raises(canonical.NotCanonical):
        canonical.loads(text)
    assert canonical.loads(b'"a"') == "a"


def _failed(**changes: Any) -> bytes:
    fields = {"status": 500, "code": "engine_failed", "message": "m", "usage": USAGE} | changes
    return msgspec.msgpack.encode([["e", *fields.values()]])


@pytest.mark.parametrize(
    "packed",
    [
        b"\xff",
        b"\x91" * 100_000,
        _failed().replace(b"engine_failed", b"\xff" * 13),
        _failed(status=200),
        _failed(code="a\x00"),
        _failed(message="m" * 4001),
        _failed(usage=USAGE | {"prompt_tokens": -1}),
        _failed(usage=USAGE | {"completion_tokens": 2**31}),
    ],
)
def test_frames_out_of_bounds_are_refused_with_one_error(packed: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        frames.unpack(packed)
    assert frames.unpack(_failed())  # the control


@pytest.mark.parametrize(
    "changes", [{"nonce": "a\n"}, {"nonce": "n" * 65}, {"token_id": "\x00"}, {"box": b"x" * 20_000}]
)
def test_enrolment_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"token_id": "t", "nonce": "n", "box": b"x"}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=enrolment.Envelope)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields | changes), type=enrolment.Envelope)


def test_line_makes_any_text_fit() -> None:
    hostile = "".join(map(chr, range(0x20))) + "\x1b[31m\u202e\u2028\ud800" + "x" * 1000
    shown = line(hostile)
    assert len(shown) == LINE
    served = Served(deployment="d", model_digest="", state="failed", detail=shown)
    with pytest.raises(BadToken):  # without it the report is refused whole
        taken(Report, REPORT | {"served": [SERVED | {"detail": hostile.replace("\ud800", "")}]})
    assert taken(Report, REPORT | {"served": [msgspec.to_builtins(served)]})
    assert messages.sha256_hex(line("short")) == messages.sha256_hex("short")
