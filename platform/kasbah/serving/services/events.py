"""How this app's actions look in the audit log."""

from __future__ import annotations

from uuid import UUID

from kasbah.audit.services import Event, EventType, Outcome, Resource
from kasbah.common.requestid import current
from kasbah.identity.services import Actor


def event(
    kind: EventType,
    actor: Actor,
    resource: Resource,
    *,
    tenant: UUID | None = None,
    site: str = "",
    worker: str = "",
    reason: str = "",
    outcome: Outcome = Outcome.SUCCESS,
    **details: str | int | bool | list[str],
) -> Event:
    """An event of a management action or of housekeeping."""
    return Event(
        type=kind,
        tenant_id=tenant,
        actor=actor.ref,
        outcome=outcome,
        resource=resource,
        reason=reason,
        request_id=current(),
        site=site,
        worker=worker,
        details=details,
    )
