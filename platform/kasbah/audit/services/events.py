"""What an event says, and its exact bytes.

No prompt, answer, name, address or other text about a person goes into an event: it names objects by id, and what
must be provable about content stands in `commitments` (HMAC-SHA256 under a random key, in hex).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from inference_worker.contract import canonical
from kasbah.common.ids import uuid7

VERSION = 1
LIMIT = 65_535  # bytes of an encoded event
BUILD = "kasbah 0.1.0"


class EventTooLarge(ValueError):
    """The event would not fit; put what is long into a side table and its digest here."""


class EventType(StrEnum):
    """What happened: subject.action."""

    LOGIN_SUCCEEDED = "authentication.login_succeeded"
    LOGIN_FAILED = "authentication.login_failed"
    LOGOUT = "authentication.logout"
    AUTHENTICATION_DENIED = "authentication.denied"  # no key or session, or none that counts
    AUTHORIZATION_DENIED = "authorization.denied"  # known, and may not
    CONFIGURATION_CHANGED = "configuration.changed"  # a process began with other settings than the last one
    SEQUENCER_STARTED = "sequencer.started"
    SEQUENCER_STOPPED = "sequencer.stopped"  # the signer refuses
    TENANT_CREATED = "tenant.created"
    TENANT_CHANGED = "tenant.changed"
    PROJECT_CREATED = "project.created"
    PROJECT_CHANGED = "project.changed"
    USER_CREATED = "user.created"
    USER_CHANGED = "user.changed"
    PASSWORD_CHANGED = "user.password_changed"  # noqa: S105 - the name of an event; by the person himself
    ACCOUNT_CONFIRMED = "user.confirmed"  # a third person says that a changed account is its person's own
    MEMBER_INVITED = "membership.invited"
    INVITATION_WITHDRAWN = "membership.invitation_withdrawn"
    INVITATION_EXPIRED = "membership.invitation_expired"
    MEMBER_ADDED = "membership.added"
    MEMBER_ROLE_CHANGED = "membership.role_changed"
    MEMBER_REMOVED = "membership.removed"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    MODEL_REGISTERED = "model.registered"
    MODEL_APPROVED = "model.approved"
    SITE_CREATED = "site.created"
    SITE_CHANGED = "site.changed"
    SITE_CORDONED = "site.cordoned"
    SITE_DRAINED = "site.drained"
    SITE_RESUMED = "site.resumed"
    SITE_RETIRED = "site.retired"
    SITE_LOST = "site.lost"  # no worker is heard, or its store or broker is away
    SITE_BACK = "site.back"
    SIGNING_KEY_CREATED = "signing_key.created"
    SIGNING_KEY_SWITCHED = "signing_key.switched"
    SIGNING_KEY_REVOKED = "signing_key.revoked"
    SITE_KEY_CREATED = "site_key.created"
    SITE_KEY_SWITCHED = "site_key.switched"
    SITE_KEY_DESTROYED = "site_key.destroyed"
    POLICY_CREATED = "policy.created"
    POLICY_REQUESTED = "policy.requested"
    POLICY_APPROVED = "policy.approved"
    POLICY_REJECTED = "policy.rejected"
    POLICY_WITHDRAWN = "policy.withdrawn"
    POLICY_EXPIRED = "policy.expired"
    POLICY_ACTIVATED = "policy.activated"
    POLICY_ROLLED_BACK = "policy.rolled_back"
    BASELINE_CREATED = "baseline.created"
    BASELINE_REQUESTED = "baseline.requested"
    BASELINE_APPROVED = "baseline.approved"
    BASELINE_REJECTED = "baseline.rejected"
    BASELINE_WITHDRAWN = "baseline.withdrawn"
    BASELINE_EXPIRED = "baseline.expired"
    BASELINE_ACTIVATED = "baseline.activated"
    BASELINE_ROLLED_BACK = "baseline.rolled_back"
    POLICY_SIMULATED = "policy.simulated"  # reads the audit log
    DEPLOYMENT_CREATED = "deployment.created"
    DEPLOYMENT_CHANGED = "deployment.changed"
    DEPLOYMENT_GRANTED = "deployment.granted"
    DEPLOYMENT_GRANT_REVOKED = "deployment.grant_revoked"
    ENROLMENT_TOKEN_CREATED = "enrolment_token.created"  # noqa: S105 - the name of an event
    WORKER_ENROLLED = "worker.enrolled"
    WORKER_ENROLMENT_REFUSED = "worker.enrolment_refused"
    WORKER_APPROVED = "worker.approved"
    WORKER_REJECTED = "worker.rejected"
    WORKER_CORDONED = "worker.cordoned"
    WORKER_DRAINED = "worker.drained"
    WORKER_RESUMED = "worker.resumed"
    WORKER_LOST = "worker.lost"
    WORKER_REVOKED = "worker.revoked"
    WORKER_DUPLICATED = "worker.duplicated"  # two processes run with one identity
    WORKER_KEY_ROTATION_ASKED = "worker.key_rotation_asked"
    WORKER_KEY_CHANGED = "worker.key_changed"
    LIMIT_SET = "limit.set"
    LIMIT_REMOVED = "limit.removed"
    INFERENCE_INTENT = "inference.intent"
    INFERENCE_OUTCOME = "inference.outcome"
    INFERENCE_DENIED = "inference.denied"
    INFERENCE_REFUSED = "inference.refused"  # by a worker
    AUDIT_READ = "audit.read"
    CONTENT_READ = "content.read"
    CONTENT_ERASED = "content.erased"
    ERASURE_REQUESTED = "erasure.requested"
    ERASURE_APPROVED = "erasure.approved"
    ERASURE_REJECTED = "erasure.rejected"
    ERASURE_WITHDRAWN = "erasure.withdrawn"
    ERASURE_EXPIRED = "erasure.expired"
    HOLD_PLACED = "legal_hold.placed"
    HOLD_RELEASE_REQUESTED = "legal_hold.release_requested"
    HOLD_RELEASED = "legal_hold.released"
    AUDIT_EXPORTED = "audit.exported"
    FORWARDING_CREATED = "forwarding.created"
    FORWARDING_CHANGED = "forwarding.changed"
    FORWARDING_ENABLED = "forwarding.enabled"
    FORWARDING_DISABLED = "forwarding.disabled"
    FORWARDING_REMOVED = "forwarding.removed"
    FORWARDING_TRIED = "forwarding.tried"
    EGRESS_REFUSED = "egress.refused"  # a process wanted a destination that is not on its list
    LOG_CHECKPOINT = "log.checkpoint"  # of a tenant, as the system log was told of it
    LOG_KEY_ROTATED = "log.key_rotated"
    LOG_RECONCILED = "log.reconciled"  # with what workers count of their answers
    LOG_MOVED = "log.moved"  # to another database cluster, by a person, or to another timeline of it
    PRUNING_REQUESTED = "pruning_policy.requested"
    PRUNING_APPROVED = "pruning_policy.approved"
    PRUNING_REJECTED = "pruning_policy.rejected"
    PRUNING_WITHDRAWN = "pruning_policy.withdrawn"
    PRUNING_EXPIRED = "pruning_policy.expired"
    PRUNING_ENDED = "pruning_policy.ended"
    LOG_PRUNED = "log.pruned"  # the bytes of old events were removed, by a policy; their leaves stay
    LOG_TRUSTED = "log.trusted"  # the signer was told to go on from what the database has


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"
    CANCELLED = "cancelled"
    PENDING = "pending"  # an intent: its outcome is an event of its own


@dataclass(frozen=True, slots=True)
class ActorRef:
    """Who: `kind` user, api_key, system or anonymous, a pseudonymous id, and how he proved it (session, command)."""

    kind: str
    id: str
    authentication: str
    on_behalf_of: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """On what: type, id, and the digest of its content where it has one."""

    type: str
    id: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The residency policy that decided, and what."""

    id: str
    version: int
    decision: str  # allow | deny
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """Which model, by public name and digest of its weights."""

    name: str
    digest: str
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """As counted by the engine; `exact` is false where it could not be asked."""

    prompt: int
    completion: int
    exact: bool = True


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event. Empty fields are left out of its bytes; `time` is UTC."""

    type: EventType
    tenant_id: UUID | None
    actor: ActorRef
    outcome: Outcome = Outcome.SUCCESS
    resource: Resource | None = None
    reason: str = ""  # stable code of why it failed or was denied
    request_id: str = ""
    policy: Policy | None = None
    model: Model | None = None
    site: str = ""
    worker: str = ""
    tokens: Tokens | None = None
    milliseconds: Mapping[str, int] = field(default_factory=dict)  # timing by name
    commitments: Mapping[str, str] = field(default_factory=dict)
    intent: UUID | None = None  # of an outcome: the event of its intent
    details: Mapping[str, str | int | bool | list[str]] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes that are stored and hashed. Raises EventTooLarge, canonical.NotCanonical."""
        document: dict[str, object] = {
            "version": VERSION,
            "id": str(self.id),
            "time": rfc3339(self.time),
            "type": self.type.value,
            "outcome": self.outcome.value,
            "actor": _plain(self.actor),
            "source": {"service": "control-plane", "build": BUILD},
        }
        if self.tenant_id is not None:
            document["tenant"] = str(self.tenant_id)
        if self.intent is not None:
            document["intent"] = str(self.intent)
        for name in ("resource", "policy", "model", "tokens"):
            if (part := getattr(self, name)) is not None:
                document[name] = _plain(part)
        for name in ("reason", "request_id", "site", "worker"):
            if text := getattr(self, name):
                document[name] = str(text)
        for name in ("milliseconds", "commitments", "details"):
            if facts := getattr(self, name):
                document[name] = dict(facts)
        data = canonical.dumps(document)
        if len(data) > LIMIT:
            raise EventTooLarge(f"An audit event may have {LIMIT} bytes; this {self.type} has {len(data)}.")
        return data

    def encode(self) -> bytes:
        """`encoded`, as a verb."""
        return self.encoded


def _plain(part: object) -> dict[str, object]:
    slots: tuple[str, ...] = type(part).__slots__  # type: ignore[attr-defined]
    return {name: value for name in slots if (value := getattr(part, name)) != ""}


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and Z (RFC 3339)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
