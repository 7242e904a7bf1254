"""Events: exact canonical bytes, bounded, without what must not be in them; receipts that anyone can check."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.contract import canonical
from inference_worker.contract.signing import BadToken, Purpose, Verifier
from kasbah.audit import services as audit
from kasbah.audit.services import receipts
from kasbah.common import env
from kasbah.common.ids import uuid7

ACTOR = audit.ActorRef("user", "0193", "session")
TENANT = UUID("01930000-0000-7000-8000-000000000001")


def event(**fields: object) -> audit.Event:
    given = {"type": audit.EventType.KEY_CREATED, "tenant_id": TENANT, "actor": ACTOR, **fields}
    return audit.Event(**given)  # type: ignore[arg-type]


def rfc8785(value: object) -> str:
    """RFC 8785 section 3.2 for this subset, written from its text: the oracle."""
    if isinstance(value, dict):
        # 3.2.3: sorted by UTF-16 code units
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{rfc8785(key)}:{rfc8785(value[key])}" for key in keys) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(rfc8785(item) for item in value) + "]"
    if isinstance(value, str):
        short = {8: r"\b", 9: r"\t", 10: r"\n", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}
        return '"' + "".join(short.get(ord(c)) or (f"\\u{ord(c):04x}" if ord(c) < 32 else c) for c in value) + '"'
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else str(value)
    )  # type: ignore[index]


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
facts = st.dictionaries(
    st.text(st.characters(max_codepoint=127), min_size=1, max_size=12),
    texts | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans() | st.lists(texts, max_size=3),
    max_size=6,
)


@given(facts, texts)
def test_bytes_are_canonical_and_read_back_the_same(details: dict[str, object], reason: str) -> None:
    made = event(details=details, reason=reason)
    data = made.encode()
    parsed = json.loads(data)
    assert data.decode() == rfc8785(parsed)
    assert canonical.loads(data) == parsed
    assert parsed.get("details", {}) == details
    assert parsed.get("reason", "") == reason
    assert made.encode() is data  # one event has one byte string


def test_every_field_has_its_place() -> None:
    intent = uuid7()
    made = event(
        type=audit.EventType.INFERENCE_OUTCOME,
        outcome=audit.Outcome.SUCCESS,
        resource=audit.Resource("job", "j1", "ab" * 32),
        request_id="req_1",
        policy=audit.Policy("p1", 3, "allow", "eu-only"),
        model=audit.Model("demo", "cd" * 32, "vllm 0.32.0"),
        site="paris",
        worker="w1",
        tokens=audit.Tokens(7, 0, exact=False),
        milliseconds={"queued": 0, "total": 12},
        commitments={"prompt": "ef" * 32},
        intent=intent,
        time=datetime(2026, 11, 23, 9, 0, 0, 7, tzinfo=timezone(timedelta(hours=1))),
    )
    assert json.loads(made.encode()) == {
        "version": 1,
        "id": str(made.id),
        "time": "2026-11-23T08:00:00.000007Z",
        "type": "inference.outcome",
        "outcome": "success",
        "tenant": str(TENANT),
        "actor": {"kind": "user", "id": "0193", "authentication": "session"},
        "source": {"service": "control-plane", "build": "kasbah 0.1.0"},
        "resource": {"type": "job", "id": "j1", "digest": "ab" * 32},
        "request_id": "req_1",
        "policy": {"id": "p1", "version": 3, "decision": "allow", "rule": "eu-only"},
        "model": {"name": "demo", "digest": "cd" * 32, "engine": "vllm 0.32.0"},
        "site": "paris",
        "worker": "w1",
        "tokens": {"prompt": 7, "completion": 0, "exact": False},
        "milliseconds": {"queued": 0, "total": 12},
        "commitments": {"prompt": "ef" * 32},
        "intent": str(intent),
    }
    assert made.id.version == 7


@pytest.mark.parametrize("value", [1.5, 2**53, {"a": object()}, b"bytes"])
def test_what_two_programs_could_read_differently_is_refused(value: object) -> None:
    with pytest.raises(canonical.NotCanonical):
        event(details={"x": value}).encode()


def test_the_limit_is_exact() -> None:
    empty = len(event(details={"x": ""}).encode())
    assert len(event(details={"x": "a" * (audit.LIMIT - empty)}).encode()) == audit.LIMIT
    with pytest.raises(audit.EventTooLarge):
        event(details={"x": "a" * (audit.LIMIT - empty + 1)}).encode()


def test_types_are_subject_and_action() -> None:
    assert all(len(kind.value.split(".")) == 2 and len(kind.value) <= 64 for kind in audit.EventType)


def test_a_receipt_is_checked_with_the_public_key_alone() -> None:
    made = event()
    token = audit.receipt(made)
    public = Ed25519PrivateKey.from_private_bytes(env.key_bytes("AUDIT_KEY")).public_key()
    promise = Verifier([public]).verify(Purpose.AUDIT, token)
    assert promise == {
        "event": str(made.id),
        "leaf": hashlib.sha256(b"\0" + made.encode()).hexdigest(),
        "deadline": (made.time + timedelta(seconds=60)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "origin": f"test/audit/{TENANT}",
    }
    with pytest.raises(BadToken):
        Verifier([public]).verify(Purpose.TICKET, token)
    with pytest.raises(BadToken):
        Verifier([Ed25519PrivateKey.generate().public_key()]).verify(Purpose.AUDIT, token)
    assert receipts.origin_of(None) == "test/audit/system"
