"""What tests of the log share: events to sequence, and one run of the sequencer."""

from __future__ import annotations

from uuid import UUID

from kasbah.audit.log import sequencer
from kasbah.audit.services import Event, EventType, record
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls

WHO = ActorRef("system", "tests", "test")


def write(tenant_id: UUID | None, count: int = 1) -> list[UUID]:
    with rls.platform_scope():
        events = [record(Event(type=EventType.AUDIT_READ, tenant_id=tenant_id, actor=WHO)).id for _ in range(count)]
    return sorted(events)  # of one transaction: in the order of their ids


def run() -> int:
    done = sequencer.sequence()
    while done.more:
        done = sequencer.sequence()
    return done.events
