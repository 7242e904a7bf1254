"""What one person asks for and another agrees to, whatever it is: who may, and how long it waits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from django.utils import timezone

from kasbah.audit.asked import Asked, AskedState
from kasbah.audit.services import Event, record
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.isolation import Isolation
from kasbah.identity.services import Actor

isolation = Isolation(logging.getLogger(__name__))
Row = TypeVar("Row", bound=Asked)


def person(actor: Actor) -> UUID:
    """The person who acts. Raises Forbidden."""
    if actor.user_id is None:
        raise Forbidden(
            "This takes two persons, not a key or a program. The command names them, with --by.", code="person_needed"
        )
    return actor.user_id


def words(reason: str) -> str:
    """A reason that somebody gives. Raises Invalid."""
    if not reason.strip() or len(reason) > 500:
        raise Invalid("Give a reason, at most 500 characters.", param="reason")
    return reason.strip()


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


def reviewed(row: Row, by: UUID) -> Row:
    """`waiting`, for the second person. Raises NotFound, Conflict, and Forbidden where it is the one who asked."""
    found = waiting(row)
    if by == found.requested_by:
        raise Forbidden("Whoever asks for it does not review it; ask a second person.", code="second_person")
    return found


def answer(row: Asked, state: AskedState, by: UUID, **said: object) -> None:
    """Write what the second person said: the state, and `said`, the columns that go with it."""
    for name, value in {"state": state, "reviewed_by": by, "reviewed_at": timezone.now(), **said}.items():
        setattr(row, name, value)
    row.save(update_fields=["state", "reviewed_by", "reviewed_at", *said])


def expire_due(model: type[Row], event: Callable[[Row], Event]) -> int:
    """End the requests that nobody answered in time, each by itself and with its event; answers how many."""
    due = {"state": AskedState.REQUESTED, "expires_at__lte": timezone.now()}
    with rls.platform_scope():
        idents = list(model._default_manager.filter(**due).order_by("pk").values_list("pk", flat=True))
    done = 0
    for ident in idents:
        with isolation.apart(f"The end of the request {ident}"), rls.platform_scope():
            row = model._default_manager.select_for_update(skip_locked=True).filter(pk=ident, **due).first()
            if row is not None:
                row.state = AskedState.EXPIRED
                row.save(update_fields=["state"])
                record(event(row))
                done += 1
    return done
