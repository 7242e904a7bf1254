"""Events in the words of OCSF 1.3.0 (schema.ocsf.io): one function for the view and for what a SIEM is sent."""

from __future__ import annotations

import json
import marshal
from functools import lru_cache
from json.encoder import encode_basestring

from kasbah.audit.export.verifier.failure import Facts
from kasbah.audit.export.verifier.parquet import micros_of

OCSF_VERSION = "1.3.0"  # in later versions class 3001 is deprecated (1.9.0); its number and meaning stay
ACCOUNT_CHANGE, AUTHENTICATION, API_ACTIVITY = 3001, 3002, 6003
OTHER = 99  # of an activity or status that the class has no number for; then its name says what it is

LOGONS = {"login_succeeded": 1, "login_failed": 1, "logout": 2}
# Create, disable, attach and detach of what lets somebody in; a changed user is looked at more closely.
ACCOUNTS = {
    "user.created": 1,
    "user.changed": OTHER,
    "user.confirmed": OTHER,
    "user.password_changed": 3,
    "membership.added": 7,
    "membership.role_changed": OTHER,
    "membership.removed": 8,
    "key.created": 1,
    "key.revoked": 5,
}
CALLS = {
    1: "created invited added registered enrolled placed granted requested intent denied checkpoint key_rotation_asked",
    2: "read exported simulated disclosed",
    3: "changed approved rejected withdrawn expired activated rolled_back cordoned drained resumed switched set "
    "moved ended key_changed role_changed release_requested invitation_withdrawn invitation_expired",
    4: "removed revoked destroyed erased pruned released grant_revoked",
}
VERBS = {verb: number for number, verbs in CALLS.items() for verb in verbs.split()}
STATUSES = {"success": (1, "Success"), "failure": (2, "Failure"), "denied": (2, "Failure")}
# What somebody should look at though it succeeded, as OCSF counts: 3 medium, 4 high. Others: see _severity.
SEVERITIES = {
    "log.trusted": 4,
    "log.moved": 4,
    "egress.refused": 4,
    "signing_key.revoked": 4,
    "worker.revoked": 4,
    "worker.enrolment_refused": 4,
    "inference.refused": 4,
    "content.erased": 3,
    "legal_hold.released": 3,
    "site.lost": 3,
    "worker.lost": 3,
    "worker.duplicated": 4,
    "baseline.activated": 3,
    "policy.activated": 3,
}
KINDS = {"user": (1, "User"), "system": (3, "System")}
# What OCSF has no attribute for in these classes, under the name it has in the log.
UNMAPPED = ("policy", "tokens", "milliseconds", "commitments", "intent", "details")
COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
OWN = frozenset(("id", "time", "request_id", *UNMAPPED))  # what differs between events that are told alike
MARK = "\ud800"  # half a character, which no text in UTF-8 has: nothing in an event is taken for a place to fill in


def ocsf_text(index: int, event: Facts) -> str:
    """`ocsf_of` as compact JSON. Most of it is the same for many events, and written once for them."""
    kept = OWN - {"details"} if event["type"] in ACCOUNTS else OWN  # accounts alone are told by their details
    shared = {name: value for name, value in event.items() if name not in kept}
    shared["actor"] = {"kind": event["actor"].get("kind", "")}
    own = {"id": event["id"], "time": event["time"], "actor": event["actor"].get("id", "")}
    if "request_id" in event:
        own["request_id"] = event["request_id"]
    if "id" in shared.get("resource", ()):
        own["resource"] = event["resource"]["id"]
        shared["resource"] = event["resource"] | {"id": ""}
    told: dict[str, str] = {name: encode_basestring(value) for name, value in own.items()}
    told["index"] = str(index)
    told["millisecond"] = str(micros_of(event["time"]) // 1000)
    told["unmapped"] = COMPACT.encode(_unmapped(event))
    return _pattern(marshal.dumps((shared, tuple(told)), 2)) % told


@lru_cache(maxsize=1024)
def _pattern(alike: bytes) -> str:
    """The text of all events that share this, with places for what each has of its own."""
    event, own = marshal.loads(alike)  # noqa: S302 - what ocsf_text wrote
    for name in own:
        if name in ("actor", "resource"):
            event[name]["id"] = MARK + name
        else:
            event[name] = MARK + name
    found = _ocsf(event["index"], event["millisecond"], event) | {"unmapped": event["unmapped"]}
    text = COMPACT.encode(found).replace("%", "%%")
    for name in own:
        text = text.replace(f'"{MARK}{name}"', f"%({name})s")
    return text


def ocsf_of(index: int, event: Facts) -> Facts:
    """The event, which stands at `index` of its log, as an OCSF event.

    Network addresses are not in the log, so no endpoint is told but that of Kasbah's own processes.
    """
    return _ocsf(index, micros_of(event["time"]) // 1000, event)


def _ocsf(index: int | str, millisecond: int | str, event: Facts) -> Facts:
    kind = event["type"]
    subject, _, verb = kind.partition(".")
    if subject == "authentication":
        found = _authentication(event, verb)
    elif kind in ACCOUNTS:
        found = _account_change(event, kind)
    else:
        found = _api_activity(event, verb)
    if found["activity_id"] == OTHER:
        found["activity_name"] = verb.replace("_", " ").capitalize()
    outcome = event["outcome"]
    status, caption = STATUSES.get(outcome, (OTHER, outcome))
    found |= {
        "category_uid": found["class_uid"] // 1000,
        "type_uid": found["class_uid"] * 100 + found["activity_id"],
        "severity_id": _severity(kind, outcome),
        "status": caption,
        "status_id": status,
        "time": millisecond,
        "actor": {"user": _principal(event["actor"])},
        "metadata": _metadata(index, event, kind),
        "unmapped": _unmapped(event),
    }
    if "reason" in event:
        found["status_code"] = event["reason"]
    return found


def _authentication(event: Facts, verb: str) -> Facts:
    tried = event.get("resource")
    return {
        "class_uid": AUTHENTICATION,
        "activity_id": LOGONS.get(verb, OTHER),
        "user": {"type_id": 1, "uid": tried["id"]} if tried else _principal(event["actor"]),
        "service": {"name": event["source"]["service"]},
    }


def _account_change(event: Facts, kind: str) -> Facts:
    details = event.get("details", {})
    found: Facts = {"class_uid": ACCOUNT_CHANGE, "activity_id": ACCOUNTS[kind]}
    uid = event.get("resource", {}).get("id", "")
    if kind.startswith("key."):
        found["user"] = {"type_id": OTHER, "type": "api_key", "uid": uid}
    elif kind.startswith("membership."):
        found["user"] = {"type_id": 1, "uid": details.get("user", "")}
        found["policy"] = {"name": details.get("role", "")}
    else:
        found["user"] = {"type_id": 1, "uid": uid}
    if kind == "user.changed" and details.get("fields") == ["password"]:
        found["activity_id"] = 3
    elif kind == "user.changed" and details.get("fields") == ["is_active"]:
        found["activity_id"] = 2 if details.get("is_active") else 5
    return found


def _api_activity(event: Facts, verb: str) -> Facts:
    api: Facts = {"operation": event["type"], "service": {"name": event["source"]["service"]}}
    if "request_id" in event:
        api["request"] = {"uid": event["request_id"]}
    own = event["actor"].get("kind") == "system"
    found: Facts = {
        "class_uid": API_ACTIVITY,
        "activity_id": VERBS.get(verb, OTHER),
        "api": api,
        # The class wants one; what the log does not have is not made up.
        "src_endpoint": {"svc_name": event["source"]["service"]} if own else {"name": "unknown"},
    }
    if resources := list(_touched(event)):
        found["resources"] = resources
    return found


def _touched(event: Facts) -> list[Facts]:
    found: list[Facts] = []
    if resource := event.get("resource"):
        one = {"type": resource.get("type", ""), "uid": resource.get("id", "")}
        found.append(one | {"data": {"digest": resource["digest"]}} if "digest" in resource else one)
    if model := event.get("model"):
        found.append({"type": "model", "name": model.get("name", ""), "uid": model.get("digest", "")})
    return found + [{"type": name, "uid": event[name]} for name in ("site", "worker") if name in event]


def _principal(actor: Facts) -> Facts:
    kind = actor.get("kind", "")
    number, caption = KINDS.get(kind, (OTHER, kind))
    return {"type_id": number, "type": caption, "uid": actor.get("id", "")}


def _severity(kind: str, outcome: str) -> int:
    """A denial is 3 (medium), a failure 2 (low), all else 1 (informational); SEVERITIES knows better."""
    return SEVERITIES.get(kind) or {"denied": 3, "failure": 2}.get(outcome, 1)


def _metadata(index: int | str, event: Facts, kind: str) -> Facts:
    found = {
        "version": OCSF_VERSION,
        "product": {"name": "Kasbah", "vendor_name": "Kasbah", "version": event["source"]["build"]},
        "uid": event["id"],
        "original_time": event["time"],
        "event_code": kind,
        "sequence": index,
        "log_name": "audit",
        "log_version": str(event["version"]),
        "tenant_uid": event.get("tenant", "system"),
    }
    if "request_id" in event:
        found["correlation_uid"] = event["request_id"]
    return found


def _unmapped(event: Facts) -> Facts:
    actor = event["actor"]
    found = {name: actor[name] for name in ("authentication", "on_behalf_of") if name in actor}
    return found | {name: event[name] for name in UNMAPPED if name in event}
