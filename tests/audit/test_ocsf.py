"""Events in the words of OCSF: what a consumer of version 1.3.0 may count on, for every type that there is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kasbah.audit.export.verifier.ocsf import ACCOUNTS, COMPACT, LOGONS, OTHER, SEVERITIES, VERBS, ocsf_of, ocsf_text
from kasbah.audit.services.events import EventType
from tests.audit.bundles import event

# Requirements of OCSF 1.3.0 as its schema has them (events/*.json, objects/*.json); one of each tuple must be there.
EVERYWHERE = ("activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid")
REQUIRED = {3001: ("user",), 3002: ("user", "service"), 6003: ("actor", "api", "src_endpoint")}
ACTIVITIES = {3001: {*range(12), OTHER}, 3002: {*range(7), OTHER}, 6003: {*range(5), OTHER}}


def of(**fields: Any) -> dict[str, Any]:
    return ocsf_of(7, json.loads(event(90_061, **fields)))


@pytest.mark.parametrize("kind", [kind.value for kind in EventType])
def test_every_type_has_what_its_class_requires(kind: str) -> None:
    found = of(type=kind)
    for name in EVERYWHERE + REQUIRED[found["class_uid"]]:
        assert found[name] not in ("", None, {}), name
    assert found["category_uid"] == found["class_uid"] // 1000
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
    assert found["activity_id"] in ACTIVITIES[found["class_uid"]]
    assert (found["activity_id"] == OTHER) == ("activity_name" in found)
    assert found["severity_id"] in range(1, 7)
    assert found["metadata"]["version"] == "1.3.0"
    assert found["metadata"]["product"]["vendor_name"]
    assert found["metadata"]["event_code"] == kind


def test_the_tables_name_types_that_there_are() -> None:
    kinds = {kind.value for kind in EventType}
    assert set(ACCOUNTS) <= kinds
    assert set(SEVERITIES) <= kinds
    assert {f"authentication.{verb}" for verb in LOGONS} <= kinds
    assert "created" in VERBS


def test_times_and_places() -> None:
    found = of(request_id="r1")
    assert found["time"] == 1_793_491_200_000 + 90_061_000
    assert found["metadata"]["original_time"] == "2026-11-02T01:01:01.000000Z"
    assert found["metadata"]["sequence"] == 7
    assert found["metadata"]["correlation_uid"] == "r1"
    assert of(time="2026-11-01T00:00:00.001999Z")["time"] == 1_793_491_200_001  # rounded down, never by a float


def test_logons() -> None:
    assert of(type="authentication.login_succeeded")["type_uid"] == 300_201
    failed = of(
        type="authentication.login_failed",
        outcome="denied",
        reason="wrong_credentials",
        actor={"kind": "user", "id": "unknown", "authentication": "password"},
        resource={"type": "user", "id": "u2"},
    )
    assert (failed["type_uid"], failed["status_id"], failed["status_code"]) == (300_201, 2, "wrong_credentials")
    assert failed["user"]["uid"] == "u2"
    assert failed["actor"]["user"]["uid"] == "unknown"
    assert failed["severity_id"] == 3


@pytest.mark.parametrize(
    ("kind", "details", "type_uid", "user"),
    [
        ("user.created", {}, 300_101, "x1"),
        ("user.changed", {"fields": ["password"]}, 300_103, "x1"),
        ("user.changed", {"fields": ["is_active"], "is_active": True}, 300_102, "x1"),
        ("user.changed", {"fields": ["is_active"], "is_active": False}, 300_105, "x1"),
        ("user.changed", {"fields": ["name", "password"]}, 300_199, "x1"),
        ("membership.added", {"user": "u3", "role": "owner"}, 300_107, "u3"),
        ("membership.removed", {"user": "u3", "role": "owner"}, 300_108, "u3"),
        ("key.revoked", {}, 300_105, "x1"),
    ],
)
def test_accounts(kind: str, details: dict[str, Any], type_uid: int, user: str) -> None:
    found = of(type=kind, details=details, resource={"type": "any", "id": "x1"})
    assert (found["type_uid"], found["user"]["uid"]) == (type_uid, user)


def test_requests() -> None:
    found = of(
        type="inference.denied",
        outcome="denied",
        reason="denied_by_policy",
        actor={"kind": "api_key", "id": "k1", "authentication": "api_key"},
        policy={"id": "p1", "version": 3, "decision": "deny", "rule": "home-only"},
        model={"name": "small", "digest": "ab"},
        site="s1",
    )
    assert (found["type_uid"], found["status_id"], found["severity_id"]) == (600_301, 2, 3)
    assert found["api"]["operation"] == "inference.denied"
    assert found["src_endpoint"] == {"name": "unknown"}  # the log has no addresses
    assert [one["type"] for one in found["resources"]] == ["model", "site"]
    assert found["unmapped"]["policy"]["rule"] == "home-only"
    assert found["unmapped"]["authentication"] == "api_key"
    own = of(type="content.erased", actor={"kind": "system", "id": "retention", "authentication": "process"})
    assert own["src_endpoint"] == {"svc_name": "control-plane"}
    pending = of(type="inference.intent", outcome="pending")
    assert (pending["status_id"], pending["status"]) == (OTHER, "pending")


def test_nothing_of_the_log_is_lost() -> None:
    """Whoever has only this view can still find every value of the event."""
    whole = {
        "request_id": "r-1", "reason": "reason-1", "site": "site-1", "worker": "worker-1", "intent": "intent-1",
        "actor": {"kind": "user", "id": "actor-1", "authentication": "session", "on_behalf_of": "other-1"},
        "resource": {"type": "job", "id": "job-1", "digest": "digest-1"},
        "model": {"name": "model-1", "digest": "weights-1"},
        "policy": {"id": "policy-1", "version": 41, "decision": "allow", "rule": "rule-1"},
        "tokens": {"prompt": 42, "completion": 43, "exact": True},
        "milliseconds": {"queue": 44}, "commitments": {"answer": "commitment-1"}, "details": {"attempt": 45},
    }  # fmt: skip
    text = json.dumps(of(type="inference.outcome", **whole))
    for value in ("r-1", "reason-1", "site-1", "worker-1", "intent-1", "actor-1", "other-1", "job-1", "digest-1"):
        assert value in text
    for value in ("model-1", "weights-1", "policy-1", "rule-1", "commitment-1", "41", "42", "43", "44", "45"):
        assert value in text


@pytest.mark.parametrize("kind", [kind.value for kind in EventType])
def test_what_is_written_once_for_many_events_is_what_each_would_have(kind: str) -> None:
    """Texts that look like places to fill in stay what they are; what is missing, empty or odd is told as alone."""
    odd: list[dict[str, Any]] = [
        {},
        {"request_id": "%(id)s", "reason": "100 %"},
        {"request_id": "%s", "actor": {"kind": "system", "id": "%(time)s", "on_behalf_of": '"'}},
        {"actor": {"id": 'index"'}, "resource": {"type": "é", "id": "", "digest": "d"}},
        {"actor": {"kind": "%%"}, "resource": {"id": "r"}, "site": "s", "worker": "w", "model": {}},
        {"resource": {}, "details": {"fields": ["password"], "user": "u", "role": "%(unmapped)s"}, "index": "own"},
        {"details": {"fields": ["is_active"], "is_active": True}, "version": True, "unmapped": 1, "millisecond": "2"},
        {"details": {"fields": ["is_active"], "is_active": 1}, "version": 1, "tokens": {"prompt": 1}, "intent": "i"},
    ]
    for number, fields in enumerate(odd * 2):
        one = json.loads(event(number, type=kind, **fields))
        assert ocsf_text(number, one) == COMPACT.encode(ocsf_of(number, one))
