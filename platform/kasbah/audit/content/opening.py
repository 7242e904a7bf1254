"""Opening what was kept, for those who may read it."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from inference_worker.contract import sealing
from inference_worker.contract.sealing import CannotOpen
from kasbah.audit.content import vault
from kasbah.audit.content.records import bound, commit
from kasbah.audit.models import Content, Intake


class Altered(ValueError):
    """What lies in the table is not what was committed to, or not where it was put."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One side of a request. `opening` and `content` are None where they were never kept or are erased."""

    part: str
    form: str
    level: str
    event: UUID
    commitment: str  # hex, from the event; "": the content is erased and its event pruned
    opening: str | None = field(repr=False)  # hex
    content: str | None = field(repr=False)
    created_at: datetime
    erased_at: datetime | None
    erased_reason: str


def open_record(row: Content) -> Opened:
    """Open a row, in a scope that sees its tenant. Raises Altered."""
    event = Intake.objects.filter(id=row.event_id, tenant_id=row.tenant_id).first()
    if event is None and not row.erased_at:
        raise Altered(f"event {row.event_id}, which commits to the {row.part}, is gone")  # no policy prunes it before
    commitment = _commitment(event, row.part) if event else ""
    opening, content = _unsealed(row)
    if opening is not None and content is not None and not hmac.compare_digest(commit(opening, content), commitment):
        raise Altered(f"the {row.part} is not what event {row.event_id} commits to")
    return Opened(
        part=row.part,
        form=row.form,
        level=row.level,
        event=row.event_id,
        commitment=commitment,
        opening=None if opening is None else opening.hex(),
        content=None if content is None else content.decode(),
        created_at=row.created_at,
        erased_at=row.erased_at or row.key.destroyed_at,
        erased_reason=row.erased_reason or ("key_destroyed" if row.key.destroyed_at else ""),
    )


def _commitment(event: Intake, part: str) -> str:
    """What the event commits to, in hex. Raises Altered when it says no such thing."""
    try:
        found = json.loads(bytes(event.event))["commitments"][part]
        bytes.fromhex(found)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Altered(f"event {event.id}, which commits to the {part}, was altered") from error
    return str(found)


def _unsealed(row: Content) -> tuple[bytes | None, bytes | None]:
    if row.key.wrapped is None:
        return None, None  # the whole month is erased
    openings_stay = row.erased_reason == "level_commitment"
    if row.erased_at and (row.ciphertext is not None or (row.opening is not None and not openings_stay)):
        raise Altered(f"the {row.part} survives its erasure of {row.erased_at:%Y-%m-%d}: somebody put it back")
    try:
        key = vault.unwrap(row.tenant_id, row.key_id, row.key.wrapped)
        opening = None if row.opening is None else _box(key, row, "opening")
        if row.record_key is None or row.ciphertext is None:
            return opening, None
        return opening, _box(_box(key, row, "record_key"), row, "ciphertext")
    except CannotOpen as error:
        raise Altered(f"the {row.part} does not open: it was altered, or is not where it was put") from error


def _box(key: bytes, row: Content, column: str) -> bytes:
    return sealing.open_box(key, bytes(getattr(row, column)), bound(row.tenant_id, row.id, column))
