"""The intake: an event is there exactly when what it tells of is."""

from __future__ import annotations

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection, transaction
from psycopg import errors

from kasbah.audit import services as audit
from kasbah.audit.models import Intake
from kasbah.common import rls
from kasbah.common.database import Database
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)
ACTOR = audit.ActorRef("system", "tests", "test")


def event(tenant_id: object, **fields: object) -> audit.Event:
    given = {"type": audit.EventType.KEY_CREATED, "tenant_id": tenant_id, "actor": ACTOR, **fields}
    return audit.Event(**given)  # type: ignore[arg-type]


def stored() -> dict[object, bytes]:
    with rls.platform_scope():
        return {row.id: bytes(row.event) for row in Intake.objects.all()}


def test_the_exact_bytes_are_stored() -> None:
    tenant = factories.tenant()
    with rls.tenant_scope(tenant.id):
        made = audit.record(event(tenant.id, details={"name": "\u0000é\ud7ff\U0001f600"}))
    assert stored() == {made.id: made.encode()}
    with rls.tenant_scope(tenant.id):
        row = Intake.objects.get()
    assert (row.tenant_id, row.type, row.request_id) == (tenant.id, "key.created", "")


def test_outside_a_transaction_nothing_is_recorded() -> None:
    with pytest.raises(audit.NotInTransaction):
        audit.record(event(None))
    assert stored() == {}


def test_an_event_goes_with_its_transaction() -> None:
    tenant = factories.tenant()

    def fail() -> None:
        with rls.tenant_scope(tenant.id):
            audit.record(event(tenant.id))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stored() == {}


def test_a_refusal_outlives_the_transaction_that_it_ends() -> None:
    def refuse() -> None:
        with transaction.atomic():
            audit.record_apart(event(None, outcome=audit.Outcome.DENIED))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        refuse()
    assert len(stored()) == 1


def test_an_event_of_another_tenant_or_of_none_is_refused() -> None:
    mine, theirs = factories.tenant(), factories.tenant()
    for owner in (theirs.id, None):
        with pytest.raises(DatabaseError, match="row-level security"), rls.tenant_scope(mine.id):
            audit.record(event(owner))
    assert stored() == {}


def test_events_without_a_tenant_are_the_platforms_alone() -> None:
    tenant = factories.tenant()
    with rls.platform_scope():
        audit.record(event(None))
        assert Intake.objects.count() == 1
    with rls.tenant_scope(tenant.id):
        assert Intake.objects.count() == 0


async def test_many_events_of_many_tenants_in_one_statement(database: Database) -> None:
    tenants = [await sync_to_async(factories.tenant)() for _ in range(3)]
    events = [event(tenant.id, request_id=f"req_{number}") for number in range(50) for tenant in tenants]
    events.append(event(None))
    async with database.transaction(None) as session:
        await audit.insert(session, [])
        await audit.insert(session, events)
    assert await sync_to_async(stored)() == {made.id: made.encode() for made in events}


async def test_a_batch_is_all_or_nothing(database: Database) -> None:
    first = event(None)
    with pytest.raises(errors.UniqueViolation):
        async with database.transaction(None) as session:
            await audit.insert(session, [first, event(None), first])
    assert await sync_to_async(stored)() == {}


async def test_a_tenants_session_writes_only_its_own(database: Database) -> None:
    mine, theirs = await sync_to_async(factories.tenant)(), await sync_to_async(factories.tenant)()
    async with database.transaction(mine.id) as session:
        await audit.insert(session, [event(mine.id)])
    with pytest.raises(errors.InsufficientPrivilege):
        async with database.transaction(mine.id) as session:
            await audit.insert(session, [event(mine.id), event(theirs.id)])
    assert len(await sync_to_async(stored)()) == 1


def test_rows_below_the_oldest_transaction_are_complete() -> None:
    """What the sequencer will rely on: a late commit is never below the mark, a plain `id > last` would skip it."""
    from django.conf import settings
    from psycopg import connect

    below = "SELECT id FROM audit_intake WHERE xid < pg_snapshot_xmin(pg_current_snapshot())"
    late, early = event(None), event(None)
    with connect(settings.DATABASE_URL) as slow:
        slow.execute(rls.SET_PLATFORM)
        slow.execute(
            "INSERT INTO audit_intake (id, type, request_id, event) VALUES (%s, 'x', '', %s)", [late.id, late.encode()]
        )
        with rls.platform_scope():
            audit.record(early)
        with rls.platform_scope(), connection.cursor() as cursor:
            cursor.execute(below)
            assert cursor.fetchall() == []  # `early` is committed, but `late` may still come before it
        slow.commit()
    with rls.platform_scope(), connection.cursor() as cursor:
        cursor.execute(below + " ORDER BY xid, id")
        assert [row[0] for row in cursor.fetchall()] == [late.id, early.id]
