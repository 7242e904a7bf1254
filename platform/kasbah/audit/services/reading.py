"""Reading many events of one tenant in bounded memory. Whoever reads for a person records that he did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from django.db import connection

from kasbah.audit.models import Intake
from kasbah.audit.services.events import EventType, Outcome

PRUNED = """
    SELECT count(*) FROM audit_pruned AS gone JOIN audit_leaf AS leaf
    ON leaf.log_id = gone.log_id AND leaf.index >= gone.start AND leaf.index < gone."end"
    WHERE gone.tenant_id = %s AND leaf.event_id >= %s AND leaf.event_id < %s
"""
CHUNK = 2_000  # events fetched at a time
# An event's id is made beside its time, so ids of a period are those of its times; a clock may be set between the two.
SLACK = timedelta(minutes=1)


class _Answer(msgspec.Struct):
    """What counts of an outcome."""

    outcome: str
    worker: str = ""


_OUTCOME = msgspec.json.Decoder(_Answer)


def stream(
    tenant_id: UUID, types: Sequence[EventType], since: datetime, until: datetime
) -> Generator[bytes, None, None]:
    """The canonical bytes of the tenant's events of these types, oldest first, through a server-side cursor.

    The transaction speaks for the tenant. `since` <= time < `until` holds for all events that are looked for, but
    some from up to a minute around may come too: the caller looks at their time. Whoever does not read to the end
    closes it, inside that transaction.
    """
    rows = (
        Intake.objects.filter(tenant_id=tenant_id, id__gte=_first(since - SLACK), id__lt=_first(until + SLACK))
        .filter(type__in=[kind.value for kind in types])
        .order_by("id")
        .values_list("event", flat=True)
    )
    for event in rows.iterator(chunk_size=CHUNK):
        yield bytes(event)


def pruned(tenant_id: UUID, since: datetime, until: datetime) -> int:
    """How many events of a period were pruned from the tenant's log, of whatever type. In a scope that sees it."""
    with connection.cursor() as cursor:
        cursor.execute(PRUNED, [tenant_id, _first(since), _first(until)])
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def intents(requests: Collection[tuple[UUID, str]]) -> dict[str, UUID]:
    """The events that told of these requests (tenant, request id) before they were sent off, by request id."""
    rows = Intake.objects.filter(
        type=EventType.INFERENCE_INTENT.value,
        request_id__in=[request_id for _, request_id in requests],
        tenant_id__in={tenant for tenant, _ in requests},
    )
    return dict(rows.values_list("request_id", "id"))


def answers(since: datetime, until: datetime) -> dict[str, int]:
    """How many requests each worker answered in a period, by the outcomes on record. In the platform's scope.

    An event that was altered in the database is no record of an answer.
    """
    rows = Intake.objects.filter(
        type=EventType.INFERENCE_OUTCOME.value, id__gte=_first(since), id__lt=_first(until)
    ).values_list("event", flat=True)
    found: Counter[str] = Counter()
    for event in rows.iterator(chunk_size=CHUNK):
        try:
            said = _OUTCOME.decode(event)
        except msgspec.DecodeError:
            continue
        if said.outcome == Outcome.SUCCESS.value and said.worker:
            found[said.worker] += 1
    return dict(found)


def _first(moment: datetime) -> UUID:
    """The smallest UUIDv7 of this millisecond."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


@contextmanager
def statement_timeout(seconds: int) -> Iterator[None]:
    """No statement of this transaction may take longer, until the end of the block."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout')")
        (outer,) = cursor.fetchone()
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
    yield
    # After an error the transaction ends, and the setting with it.
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [outer])
