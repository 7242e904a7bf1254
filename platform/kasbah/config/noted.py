"""With which settings the processes run, for the log: that one began with others than before is an event.

No value is written, only which settings differ and a digest of each: some name addresses. Secrets are left out; which
key signs the log, and which keys sign tickets, have events of their own.
"""

from __future__ import annotations

import hashlib
import json

from inference_worker.contract import canonical
from kasbah.audit.models import Intake
from kasbah.audit.services import ActorRef, Event, EventType, Resource, record
from kasbah.common import env, rls

NOTED = (
    "ALLOWED_HOSTS",
    "APP_ROLE",
    "AUDIT_DIR",
    "CARRIER",
    "CLASSIFIER",
    "DATABASE_POOL",
    "DEFAULT_OUTPUT_TOKENS",
    "EGRESS_ALLOW",
    "GATEWAY_POOL",
    "IMPORT_DIR",
    "INSTALLATION",
    "LEASE_MS",
    "LOG_LEVEL",
    "LOOK_MS",
    "MODELS_DIR",
    "POLICY_REQUEST_DAYS",
    "QUEUE_WAIT_S",
    "REVIEW_WAIT_HOURS",
    "STORE_PATIENCE_S",
    "STREAM_HOLD",
    "SYSLOG_PEN",
    "TLS",
    "TRUSTED_ORIGINS",
    "TRUSTED_PROXIES",
    "WITNESSES",
)
# Secrets, what holds one, what differs from process to process, and what only commands read.
LEFT_OUT = (
    "API_KEY_PEPPER",
    "AUDIT_KEY",
    "AUDIT_KEY_PREVIOUS",
    "BIND",
    "DATABASE_URL",
    "DEMO_BROKER_URL",
    "DEMO_MODEL",
    "DEMO_NEW_KEY",
    "KEK",
    "OWNER_DATABASE_URL",
    "REDIS_URL",
    "SECRET_KEY",
)
LOOKED_AT = 100  # earlier events, among which is the last one of this service


def note(service: str) -> bool:
    """Record it when `service` (serve, housekeeping) began with other settings than the last time."""
    values = {name: env.value(name, "") for name in NOTED}
    digests = {name: hashlib.sha256(f"{name}={value}".encode()).hexdigest()[:16] for name, value in values.items()}
    with rls.platform_scope():
        before = _last(service)
        if before == digests:
            return False
        record(
            Event(
                type=EventType.CONFIGURATION_CHANGED,
                tenant_id=None,
                actor=ActorRef("system", service, "process"),
                resource=Resource("configuration", service, hashlib.sha256(canonical.dumps(digests)).hexdigest()),
                details={
                    "changed": [name for name in digests if before.get(name) != digests[name]] if before else [],
                    "settings": [f"{name} {digest}" for name, digest in digests.items()],
                },
            )
        )
    return True


def _last(service: str) -> dict[str, str]:
    rows = Intake.objects.filter(tenant_id=None, type=EventType.CONFIGURATION_CHANGED.value).order_by("-id")
    for row in rows[:LOOKED_AT]:
        try:
            event = json.loads(bytes(row.event))
            if event["resource"]["id"] == service:
                return dict(each.split(" ", 1) for each in event["details"]["settings"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # altered in the database: auditlog check names it, and it keeps no process from its start
    return {}
