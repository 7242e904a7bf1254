"""What tests of the log share: events to sequence, and one run of the sequencer."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from kasbah.audit.log import sequencer
from kasbah.audit.services import Event, EventType, exports, record
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls

WHO = ActorRef("system", "tests", "test")


def sequence_uncommitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run that sees the events of the test's own transaction, which it never commits."""
    visible = sequencer.NEXT.replace("xid < pg_snapshot_xmin(pg_current_snapshot())", "true")
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


@contextmanager
def unguarded(superuser: psycopg.Connection[Any]) -> Iterator[Any]:
    """A superuser who switches off what keeps the intake; his `execute`."""
    execute: Any = superuser.execute
    triggers = ("audit_intake_insert_only", "audit_intake_prunable")
    for trigger in triggers:
        execute(f"ALTER TABLE audit_intake DISABLE TRIGGER {trigger}")
    try:
        yield execute
    finally:
        for trigger in triggers:
            execute(f"ALTER TABLE audit_intake ENABLE ALWAYS TRIGGER {trigger}")


def verified(path: Path, tenant: UUID | None) -> str:
    """What the export's own verify.py says of it; its error when it fails."""
    with zipfile.ZipFile(path) as archive:
        path.with_suffix(".py").write_bytes(archive.read("verify.py"))
    key = exports.log_key(f"test/audit/{tenant or 'system'}").vkey()
    command = [sys.executable, "-I", "-S", str(path.with_suffix(".py")), str(path), "--key", key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else done.stderr
