"""What tests of the log share: events to sequence, and one run of the sequencer."""

from __future__ import annotations

from uuid import UUID

import pytest

from kasbah.audit.log import sequencer
from kasbah.audit.services import Event, EventType, record
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls

WHO = ActorRef("system", "tests", "test")


def sequence_uncommitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run that sees the events of the test's own transaction, which it never commits."""
    visible = sequencer.NEXT.replace("AND xid < pg_snapshot_xmin(pg_current_snapshot())", "")
    assert visible != sequencer.NEXT
    with monkeypatch.context() as patch:
        patch.setattr(sequencer, "NEXT", visible)
        sequencer.sequence()


def write(tenant_id: UUID | None, count: int = 1) -> list[UUID]:
    with rls.platform_scope():
        events = [record(Event(type=EventType.AUDIT_READ, tenant_id=tenant_id, actor=WHO)).id for _ in range(count)]
    return sorted(events)  # of one transaction: in the order of their ids


def run() -> int:
    done = sequencer.sequence()
    while done.more:
        done = sequencer.sequence()
    return done.events
