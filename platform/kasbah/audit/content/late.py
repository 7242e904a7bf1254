"""What an answer was, kept by housekeeping: for requests whose web process died before it could settle them.

The record of the prompt says what the policy let be kept when the request came, and where.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db import connection

from kasbah.audit.content import records, vault
from kasbah.audit.content.forms import STREAM
from kasbah.audit.content.records import Place
from kasbah.audit.models import Content, Part
from kasbah.audit.services.events import Event


def places(requests: Iterable[tuple[UUID, str]]) -> dict[str, Place]:
    """Where the answers of these requests (tenant, request id) go, by request id; those of which nothing is kept are
    left out. In a scope that sees the tenants."""
    asked = {request_id: tenant for tenant, request_id in requests}
    rows = Content.objects.filter(request_id__in=asked, part=Part.PROMPT, tenant_id__in=set(asked.values()))
    return {
        row.request_id: Place(
            tenant_id=row.tenant_id,
            project_id=row.project_id,
            request_id=row.request_id,
            data_class=row.data_class,
            level=row.level,
            policy=row.policy,
            ceiling_days=row.ceiling_days,
        )
        for row in rows
        if asked[row.request_id] == row.tenant_id
    }


def keep(event: Event, place: Place, said: bytes) -> Event:
    """Write the record of an answer; the event is given back with the commitment and is still to be recorded, in the
    same transaction. Raises KeyDestroyed."""
    record = records.make(vault.current(place.tenant_id), place, part=Part.ANSWER.value, form=STREAM, content=said)
    event = records.told(event, record)
    with connection.cursor() as cursor:
        cursor.execute(records.INSERT, records.columns([(record, event.id)]))
        records.check_written(cursor.rowcount, 1)
    return event
