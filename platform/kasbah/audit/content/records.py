"""One record: the commitment that goes into the event, and what goes into the table beside it."""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from psycopg import IntegrityError

from inference_worker.contract import sealing
from kasbah.audit.content.vault import MonthKey
from kasbah.audit.services.events import Event
from kasbah.common.database import Connection
from kasbah.common.ids import uuid7

NONE, COMMITMENT, SEALED = "none", "commitment", "sealed"
TABLE = "audit_content"
# One statement for all that is written together. The key must still be there: what is sealed under a destroyed key
# would be erased before it was kept. An answer whose prompt was erased while it was made is erased with it: its row
# says so from the start, and the commitment in the event stays, as that of every erased content.
INSERT = """
INSERT INTO audit_content (id, tenant_id, project_id, key_id, request_id, event_id, part, form, data_class, level,
    policy, ceiling_days, opening, record_key, ciphertext, erased_at, erased_reason, erased_event)
SELECT new.id, new.tenant_id, new.project_id, new.key_id, new.request_id, new.event_id, new.part, new.form,
    new.data_class, new.level, new.policy, new.ceiling_days,
    CASE WHEN gone.at IS NULL THEN new.opening END, CASE WHEN gone.at IS NULL THEN new.record_key END,
    CASE WHEN gone.at IS NULL THEN new.ciphertext END, gone.at, coalesce(gone.reason, ''), gone.event
FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::uuid[], %s::text[],
    %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %b::bytea[], %b::bytea[], %b::bytea[])
    AS new (id, tenant_id, project_id, key_id, request_id, event_id, part, form, data_class, level,
        policy, ceiling_days, opening, record_key, ciphertext)
JOIN audit_contentkey AS key ON key.id = new.key_id AND key.destroyed_at IS NULL
LEFT JOIN LATERAL (
    SELECT coalesce(prompt.erased_at, sealer.destroyed_at) AS at, coalesce(prompt.erased_event, sealer.destroyed_event)
        AS event, CASE WHEN prompt.erased_at IS NULL THEN 'key_destroyed' ELSE prompt.erased_reason END AS reason
    FROM audit_content AS prompt JOIN audit_contentkey AS sealer ON sealer.id = prompt.key_id
    WHERE prompt.tenant_id = new.tenant_id AND prompt.request_id = new.request_id AND prompt.part = 'prompt'
    AND new.part <> 'prompt' AND (prompt.erased_at IS NOT NULL OR sealer.destroyed_at IS NOT NULL)
) AS gone ON true
"""


class KeyDestroyed(IntegrityError):
    """The month's key was destroyed after the content was sealed; nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of which request the content is, and what the policy (`id@version`) lets be kept of its class."""

    tenant_id: UUID
    project_id: UUID
    request_id: str
    data_class: str
    level: str
    policy: str
    ceiling_days: int


@dataclass(frozen=True, slots=True)
class Record:
    """One side of a request, to be written with the event `event_id`. Without content: `record_key` is None."""

    id: UUID
    place: Place
    key_id: UUID
    part: str
    form: str
    commitment: str = field(repr=False)  # hex, for the event
    opening: bytes = field(repr=False)
    record_key: bytes | None = field(repr=False)
    ciphertext: bytes | None = field(repr=False)


def commit(opening: bytes, content: bytes) -> str:
    """HMAC-SHA256 in hex. Without the 32 random bytes of `opening` nobody can even guess at the content."""
    return hmac.digest(opening, content, "sha256").hex()


def make(key: MonthKey, place: Place, *, part: str, form: str, content: bytes) -> Record:
    """Commit to `content`, and seal it where the level is `sealed`."""
    ident, opening = uuid7(), os.urandom(32)
    record_key = ciphertext = None
    if place.level == SEALED:
        own = os.urandom(32)
        record_key = sealing.seal_box(key.key, own, bound(place.tenant_id, ident, "record_key"))
        ciphertext = sealing.seal_box(own, content, bound(place.tenant_id, ident, "ciphertext"))
    return Record(
        id=ident,
        place=place,
        key_id=key.id,
        part=part,
        form=form,
        commitment=commit(opening, content),
        opening=sealing.seal_box(key.key, opening, bound(place.tenant_id, ident, "opening")),
        record_key=record_key,
        ciphertext=ciphertext,
    )


def bound(tenant_id: UUID, row: UUID, column: str) -> str:
    """The associated data: a box that is moved to another tenant, row or column does not open."""
    return f"{TABLE}:{tenant_id}:{row}:{column}"


def told(event: Event, record: Record | None) -> Event:
    """The event with the commitment to what is kept beside it."""
    if record is None:
        return event
    details = {**event.details, "content": record.place.level, "form": record.form}
    return replace(event, commitments={record.part: record.commitment}, details=details)


async def insert(connection: Connection, records: Sequence[tuple[Record, UUID]]) -> None:
    """Write records, each with the id of its event, in the transaction of those events. Raises KeyDestroyed."""
    if records:
        done = await connection.execute(INSERT, columns(records))
        check_written(done.rowcount, len(records))


def columns(records: Sequence[tuple[Record, UUID]]) -> list[list[object]]:
    """The parameters of INSERT."""
    rows = [
        (item.id, item.place.tenant_id, item.place.project_id, item.key_id, item.place.request_id, event_id, item.part,
         item.form, item.place.data_class, item.place.level, item.place.policy, item.place.ceiling_days, item.opening,
         item.record_key, item.ciphertext)
        for item, event_id in records
    ]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)]


def check_written(rows: int, wanted: int) -> None:
    """Raise KeyDestroyed unless every record found its key."""
    if rows != wanted:
        raise KeyDestroyed("the key of this month was destroyed")
