"""A receipt is a signed promise: this event, with this leaf hash, will be in this log by the deadline."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from uuid import UUID

from django.conf import settings

from inference_worker.contract.signing import Purpose, Signer
from kasbah.audit.log.merkle import leaf_hash
from kasbah.audit.services.events import Event, rfc3339
from kasbah.common import env

PROMISE = timedelta(seconds=60)


@cache
def ring() -> tuple[Signer, ...]:
    """The installation's audit keys: KASBAH_AUDIT_KEY, and behind it the one that it is about to follow."""
    raw = [env.key_bytes("AUDIT_KEY")]
    if env.value("AUDIT_KEY_PREVIOUS", ""):
        raw.append(env.key_bytes("AUDIT_KEY_PREVIOUS"))
    return tuple(map(Signer.from_raw, raw))


def signer() -> Signer:
    """The audit key that signs what begins now (KASBAH_AUDIT_KEY)."""
    return ring()[0]


def origin_of(tenant_id: UUID | None) -> str:
    """Name of a log: one for each tenant, one for the system."""
    return f"{settings.INSTALLATION}/audit/{tenant_id or 'system'}"


def receipt(event: Event) -> str:
    """The value of the header `kasbah-audit-receipt`, to be given only once the event is committed."""
    return signer().sign(
        Purpose.AUDIT,
        {
            "event": str(event.id),
            "leaf": leaf_hash(event.encoded).hex(),
            "deadline": rfc3339(event.time + PROMISE),
            "origin": origin_of(event.tenant_id),
        },
    )
