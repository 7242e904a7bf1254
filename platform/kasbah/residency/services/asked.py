"""What one person asks for and another agrees to: the rows of it, and how long they wait. Who may: see approvals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from django.utils import timezone

from kasbah.audit.asked import Asked, AskedState
from kasbah.audit.services import Event, record
from kasbah.common import rls
from kasbah.common.errors import Conflict, NotFound
from kasbah.common.isolation import Isolation
from kasbah.identity.services import Permission, Proposal

isolation = Isolation(logging.getLogger(__name__))
Row = TypeVar("Row", bound=Asked)


def waiting(row: Row) -> Row:
    """The row as it is now, locked, while it waits for an answer. Raises NotFound, Conflict."""
    rows = type(row)._default_manager.select_for_update()
    found = rows.filter(pk=row.pk, tenant_id=row.tenant_id).first()
    if found is None:
        raise NotFound("There is no such request.")
    if found.state != AskedState.REQUESTED:
        raise Conflict(f"This is {found.state}; nobody asks for it any more.")
    if found.expires_at <= timezone.now():
        raise Conflict("This request has expired; it must be made anew.")
    return found


def proposal(row: Asked) -> Proposal:
    """Who asked for it, and by which permission."""
    return Proposal(asked_by=row.requested_by, permission=Permission.ERASURE_MANAGE, tenant_id=row.tenant_id)


def answer(row: Asked, state: AskedState, by: UUID, **said: object) -> None:
    """Write what the second person said: the state, and `said`, the columns that go with it."""
    for name, value in {"state": state, "reviewed_by": by, "reviewed_at": timezone.now(), **said}.items():
        setattr(row, name, value)
    row.save(update_fields=["state", "reviewed_by", "reviewed_at", *said])


def expire_due(model: type[Row], event: Callable[[Row], Event]) -> int:
    """End the requests that nobody answered in time, and those of who may no longer ask; answers how many.

    Each by itself and with its event.
    """
    waits = model._default_manager.filter(state=AskedState.REQUESTED)
    with rls.platform_scope():
        idents = list(waits.order_by("pk").values_list("pk", flat=True))
    done = 0
    for ident in idents:
        with isolation.apart(f"The end of the request {ident}"), rls.platform_scope():
            row = waits.select_for_update(skip_locked=True).filter(pk=ident).first()
            if row is not None and (row.expires_at <= timezone.now() or proposal(row).lapsed):
                row.state = AskedState.EXPIRED
                row.save(update_fields=["state"])
                record(event(row))
                done += 1
    return done
