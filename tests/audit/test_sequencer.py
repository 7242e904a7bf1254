"""Sequencing: every committed event once, in commit order, signed for; what does not continue the log is refused."""

from __future__ import annotations

import json
import shutil
import threading
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection

from kasbah.audit.log import keys, merkle, sequencer
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Leaf, Log, SignedCheckpoint
from kasbah.audit.log.note import BadNote, Checkpoint, Note
from kasbah.audit.log.tiles import TileFolder, TileTree
from kasbah.audit.models import Intake
from kasbah.audit.services import Event, EventType
from kasbah.common import rls
from kasbah.common.ids import uuid7
from tests import factories
from tests.audit.logs import WHO, run, unguarded, write

pytestmark = pytest.mark.django_db(transaction=True)
SEEN = "SELECT DISTINCT tenant_id FROM {}"


def log_of(tenant_id: UUID | None) -> tuple[Log, list[Leaf], Checkpoint]:
    """A log with its leaves and its newest checkpoint, whose signature holds."""
    with rls.platform_scope():
        log = Log.objects.get(tenant_id=tenant_id)
        leaves = list(Leaf.objects.filter(log=log).order_by("index"))
        row = SignedCheckpoint.objects.filter(log=log).order_by("-size")[0]
    note = Note.parse(row.note)
    with rls.platform_scope():
        key = keys.log_key(log.origin)
    assert note.verified([key]) == {key: 0}
    return log, leaves, Checkpoint.parse(note.text)


def root_of(leaves: list[Leaf]) -> bytes:
    return merkle.Frontier().extended(bytes(leaf.hash) for leaf in leaves).root()


def test_every_event_gets_one_place_in_the_log_of_its_tenant(tenant: UUID) -> None:
    other = factories.tenant().id
    mine = write(tenant, 3)
    theirs = write(other, 2)
    mine += write(tenant, 300)
    assert run() >= 305
    log, leaves, checkpoint = log_of(tenant)
    assert [leaf.event_id for leaf in leaves] == mine
    assert [leaf.index for leaf in leaves] == list(range(303))
    assert checkpoint == Checkpoint(f"test/audit/{tenant}", 303, root_of(leaves))
    with rls.platform_scope():
        events = {row.id: bytes(row.event) for row in Intake.objects.filter(tenant_id=tenant)}
    assert all(bytes(leaf.hash) == merkle.leaf_hash(events[leaf.event_id]) for leaf in leaves)
    assert [leaf.event_id for leaf in log_of(other)[1]] == theirs
    tree = TileTree(303, sequencer.tiles(log).read)
    proof = merkle.inclusion_proof(7, 303, tree.node)
    assert merkle.root_from_inclusion(bytes(leaves[7].hash), 7, 303, proof) == checkpoint.root


def test_the_system_log_is_told_of_the_tenants_checkpoints(tenant: UUID) -> None:
    write(tenant, 2)
    run()
    run()  # the anchor itself is an event, which the next run gives its place
    _, leaves, mine = log_of(tenant)
    _, system, _ = log_of(None)
    with rls.platform_scope():
        texts = [json.loads(bytes(Intake.objects.get(pk=leaf.event_id).event)) for leaf in system]
    anchors = [text for text in texts if text["type"] == "log.checkpoint" and text["resource"]["id"] == mine.origin]
    assert [(one["details"]["size"], one["resource"]["digest"]) for one in anchors] == [(2, mine.root.hex())]
    write(tenant)
    run()
    assert len(log_of(None)[1]) == len(system)  # within a minute the system log is not told again
    assert len(leaves) == 2


def test_a_commit_that_comes_late_is_not_skipped(tenant: UUID, app_url: str) -> None:
    late = Event(type=EventType.AUDIT_READ, tenant_id=tenant, actor=WHO)
    with psycopg.connect(app_url) as slow:
        slow.execute(rls.SET_PLATFORM)
        slow.execute(
            "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, %s, '', %s)",
            [late.id, tenant, late.type.value, late.encoded],
        )
        early = write(tenant)
        assert run() == 0  # an older transaction runs: nothing is given a place before it has ended
        slow.commit()
    run()
    assert [leaf.event_id for leaf in log_of(tenant)[1]] == [late.id, *early]


def test_commits_are_ordered_as_numbers(tenant: UUID, superuser: psycopg.Connection[Any]) -> None:
    """Transaction 10 comes after transaction 9, though "10" is before "9" as a text."""
    insert: Any = (
        "INSERT INTO audit_intake (id, tenant_id, type, event, request_id, xid) VALUES (%s, %s, 't', 'e', '', %s)"
    )
    made = [uuid7() for _ in range(3)]
    for event, xid in zip(made, ("9", "10", "11"), strict=True):
        superuser.execute(insert, [event, tenant, xid])
    assert [sequencer.sequence(limit=1).events for _ in range(4)] == [1, 1, 1, 1]  # the last is the system log's
    assert [leaf.event_id for leaf in log_of(tenant)[1]] == made


def test_a_run_that_dies_before_its_commit_is_made_up_for(tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tenant, 2)
    run()
    more = write(tenant, 3)
    with monkeypatch.context() as patch:
        patch.setattr(sequencer, "_advance", lambda last: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sequencer.sequence()  # signed and remembered, but not committed
    assert len(log_of(tenant)[1]) == 2
    write(tenant)
    run()
    assert [leaf.event_id for leaf in log_of(tenant)[1]][2:5] == more


def test_tiles_that_were_not_written_are_made_up_for(tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tenant, 2)
    with monkeypatch.context() as patch:
        patch.setattr(sequencer, "write_tiles", lambda: None)
        run()
    write(tenant)
    run()
    log, leaves, _ = log_of(tenant)
    assert sequencer.tiles(log).read("tile/0/000.p/3") == b"".join(bytes(leaf.hash) for leaf in leaves)


def test_an_old_database_that_goes_on_is_caught(tenant: UUID, superuser: psycopg.Connection[Any]) -> None:
    write(tenant, 5)
    run()
    rewind(superuser, tenant, 3)
    write(tenant)
    with pytest.raises(SignerRefuses, match="older than the log"):
        sequencer.sequence()
    write(tenant, 4)
    with pytest.raises(SignerRefuses, match="not those that were signed"):
        sequencer.sequence()
    shutil.rmtree(sequencer.folder() / "memory")
    with pytest.raises(SignerRefuses, match="remembers none"):
        sequencer.sequence()


def test_without_the_memory_a_restored_database_would_go_on(
    tenant: UUID, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The negative control: with the guard off, a second history is signed.
    write(tenant, 5)
    run()
    _, _, signed = log_of(tenant)
    rewind(superuser, tenant, 3)
    write(tenant, 4)
    monkeypatch.setattr("kasbah.audit.log.memory.Memory.agree", lambda *_: None)
    monkeypatch.setattr(sequencer, "write_tiles", lambda: None)  # tiles that do not fit would be seen too
    sequencer.sequence()
    assert root_of(log_of(tenant)[1][:5]) != signed.root


def rewind(superuser: psycopg.Connection[Any], tenant: UUID, size: int) -> None:
    """The database as it was when the tenant's log had `size` events; what came after them never happened."""
    log, leaves, _ = log_of(tenant)
    kept = merkle.Frontier().extended(bytes(leaf.hash) for leaf in leaves[:size])
    gone = [leaf.event_id for leaf in leaves[size:]]
    tables = ("audit_leaf", "audit_checkpoint")
    execute: Any = superuser.execute
    for table in tables:
        execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_insert_only")
    execute("DELETE FROM audit_leaf WHERE event_id = ANY(%s)", [gone])
    with unguarded(superuser):
        execute("DELETE FROM audit_intake WHERE id = ANY(%s)", [gone])
    execute("DELETE FROM audit_checkpoint WHERE log_id = %s AND size > %s", [log.pk, size])
    execute(
        "UPDATE audit_log SET size = %s, frontier = %s, tiled = %s WHERE id = %s", [size, kept.pack(), size, log.pk]
    )
    for table in tables:
        execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_insert_only")


def test_two_sequencers_at_once(tenant: UUID, app_url: str) -> None:
    events = write(tenant, 4)
    with psycopg.connect(app_url) as other:
        other.execute(sequencer.LOCK)
        assert run() == 0
    run()
    assert [leaf.event_id for leaf in log_of(tenant)[1]] == events


def test_tiles_are_written_by_one_at_a_time(tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """Housekeeping has several threads, and ticks twice a second."""
    inside, most = 0, 0
    real = TileFolder.extend

    def slow(self: TileFolder, old: int, leaves: list[bytes]) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        gathered.wait(0.2)
        real(self, old, leaves)
        inside -= 1

    def write_and_close() -> None:
        sequencer.write_tiles()
        connection.close()

    gathered = threading.Event()
    write(tenant, 300)
    with monkeypatch.context() as patch:
        patch.setattr(sequencer, "write_tiles", lambda: None)
        run()
    monkeypatch.setattr(TileFolder, "extend", slow)
    threads = [threading.Thread(target=write_and_close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == 1
    log, leaves, _ = log_of(tenant)
    assert sequencer.tiles(log).read("tile/0/000") == b"".join(bytes(leaf.hash) for leaf in leaves[:256])


@pytest.mark.parametrize("table", ["audit_leaf", "audit_checkpoint"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET tenant_id = NULL", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_leaves_and_checkpoints_are_never_changed(tenant: UUID, owner: Any, table: str, verb: str) -> None:
    write(tenant)
    run()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(verb.format(table))


def test_a_tenant_sees_its_own_log_alone(tenant: UUID) -> None:
    write(tenant)
    write(None)
    run()
    with rls.tenant_scope(tenant), connection.cursor() as cursor:
        for table in ("audit_log", "audit_leaf", "audit_checkpoint"):
            cursor.execute(SEEN.format(table))
            assert cursor.fetchall() == [(tenant,)]


def test_a_changed_checkpoint_does_not_hold(tenant: UUID) -> None:
    write(tenant)
    run()
    with rls.platform_scope():
        row = SignedCheckpoint.objects.get(tenant_id=tenant)
    forged = row.note.replace("\n1\n", "\n2\n")
    assert forged != row.note
    with pytest.raises(BadNote):
        Note.parse(forged).verified([keys.log_key(f"test/audit/{tenant}")])
