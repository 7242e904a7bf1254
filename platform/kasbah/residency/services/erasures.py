"""Erasure on demand, by two persons: one asks, another agrees to exactly what the first one saw.

What the law asks for (a data subject's request, an authority's order) goes before the floor of the policy in force;
an own decision does not. Nothing goes before a legal hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from kasbah.audit.asked import AskedState
from kasbah.audit.models import Erasure, ErasureBasis, ErasureKind
from kasbah.audit.services import Event, EventType, Resource, record, rfc3339
from kasbah.audit.services.content import demand, settle
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Invalid, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import ApiKey, Tenant
from kasbah.identity.services import (
    Actor,
    Permission,
    acting_person,
    require,
    require_approver,
    require_second_person,
    system,
)
from kasbah.residency.services import asked
from kasbah.residency.services.activation import lasts
from kasbah.residency.services.loaders import policy_in_force

NOTHING = "Nothing is kept of this; there is nothing to erase."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to go: a month (its first day), a request, or all of a person (a user's id, or an API key's).

    `since` and `until` are of a person, and about when content was stored; `until` is exclusive, now if not given.
    """

    month: date | None = None
    request_id: str = ""
    person: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def request_erasure(actor: Actor, tenant: Tenant, wish: Wish, *, basis: str, reason: str) -> Erasure:
    """Ask that content be erased; another person must agree. Raises NotFound, Forbidden, Conflict, Invalid."""
    require(actor, Permission.ERASURE_MANAGE, tenant)
    asker = acting_person(actor)
    if basis not in ErasureBasis.values:
        raise Invalid(f"Known bases: {', '.join(ErasureBasis.values)}.", param="basis")
    row = Erasure(
        tenant_id=tenant.id,
        kind=_kind(wish),
        basis=basis,
        month=wish.month,
        request_id=wish.request_id,
        person=wish.person,
        since=wish.since,
        until=(wish.until or timezone.now()) if wish.person else None,
        words=validation.check_reason(reason),
        requested_by=asker,
        requested_at=timezone.now(),
        expires_at=timezone.now() + lasts(),
    )
    with rls.tenant_scope(tenant.id):
        _, hits = _looked_up(row)
        row.digest, row.records = demand.digest(hits), len(hits)
        validation.save(row, "This request exists already; try again.")
        record(_event(EventType.ERASURE_REQUESTED, actor, row, **_told(row)))
    return row


def approve_erasure(actor: Actor, erasure: Erasure, digest: str) -> Erasure:
    """Agree, as the second person; keys and content are destroyed by that. `digest` is the one that was looked at.

    Raises NotFound, Forbidden, Conflict (legal_hold, within_floor, erasure_changed).
    """
    require(actor, Permission.ERASURE_APPROVE, erasure.tenant_id)
    with rls.tenant_scope(erasure.tenant_id):
        found = asked.waiting(erasure)
        facts = require_approver(actor, asked.proposal(found))
        target, hits = _looked_up(found)
        if demand.digest(hits) != found.digest or digest != found.digest:
            raise Conflict(
                "What would be destroyed is no longer what was asked for: records came or went since. Withdraw this "
                "request, ask anew, and have the new one looked at.",
                code="erasure_changed",
            )
        record(_event(EventType.ERASURE_APPROVED, actor, found, requested_by=str(found.requested_by), **facts))
        event = record(demand.event(found, target, hits, actor.ref, current()))
        asked.answer(found, AskedState.APPROVED, acting_person(actor), event_id=event.id)
        demand.destroy(target, hits, event.id)
    return found


def reject_erasure(actor: Actor, erasure: Erasure, reason: str) -> Erasure:
    """Refuse, as the second person; the request ends there. Raises NotFound, Forbidden, Conflict, Invalid."""
    require(actor, Permission.ERASURE_APPROVE, erasure.tenant_id)
    with rls.tenant_scope(erasure.tenant_id):
        found = asked.waiting(erasure)
        reviewer = require_second_person(actor, asked.proposal(found))
        asked.answer(found, AskedState.REJECTED, reviewer, rejection=validation.check_reason(reason))
        record(_event(EventType.ERASURE_REJECTED, actor, found))
    return found


def withdraw_erasure(actor: Actor, erasure: Erasure) -> Erasure:
    """Take a request back. Raises NotFound, Forbidden, Conflict."""
    require(actor, Permission.ERASURE_MANAGE, erasure.tenant_id)
    acting_person(actor)
    with rls.tenant_scope(erasure.tenant_id):
        found = asked.waiting(erasure)
        found.state = AskedState.WITHDRAWN
        found.save(update_fields=["state"])
        record(_event(EventType.ERASURE_WITHDRAWN, actor, found))
    return found


def expire_due() -> int:
    """End the requests that nobody answered in time; answers how many."""
    return asked.expire_due(Erasure, lambda row: _event(EventType.ERASURE_EXPIRED, system("housekeeping"), row))


def _kind(wish: Wish) -> ErasureKind:
    given = [
        kind
        for kind, value in (
            (ErasureKind.MONTH, wish.month),
            (ErasureKind.REQUEST, wish.request_id),
            (ErasureKind.PERSON, wish.person),
        )
        if value
    ]
    if len(given) != 1:
        raise Invalid("Give one of them: a month, a request, or a person.", param="month")
    if wish.month and wish.month.day != 1:
        raise Invalid("Name a month by its first day, such as 2026-01-01.", param="month")
    if given[0] != ErasureKind.PERSON and (wish.since or wish.until):
        raise Invalid("A period is given with a person alone.", param="since")
    for name, moment in (("since", wish.since), ("until", wish.until)):
        if moment is not None and timezone.is_naive(moment):
            raise Invalid("Give a time with its time zone.", param=name)
    if wish.since and wish.since >= (wish.until or timezone.now()):
        raise Invalid("The period ends before it begins.", param="until")
    return given[0]


def _looked_up(row: Erasure) -> tuple[demand.Target, list[demand.Hit]]:
    """What would go now, locked, once nothing stands against it. Raises NotFound, Conflict."""
    settle(row.tenant_id)
    key = demand.key_of(row.tenant_id, row.month) if row.month else None
    if row.month and key is None:
        raise NotFound("There is no key of this month, or it is destroyed.", param="month")
    target = demand.Target(
        tenant_id=row.tenant_id,
        key=key,
        request_id=row.request_id,
        actors=_actors(row) if row.person else None,
        since=row.since,
        until=row.until,
    )
    hits = demand.find(target)
    if not hits and key is None:
        raise NotFound(NOTHING)
    if holds := demand.holds_on(target):
        raise Conflict(
            f"Legal holds keep it: {', '.join(map(str, holds[:5]))}. What is held is erased once they are released.",
            code="legal_hold",
        )
    if row.basis == ErasureBasis.OWN_DECISION:
        _check_floors(row.tenant_id, hits)
    return target, hits


def _actors(row: Erasure) -> tuple[str, ...]:
    """A person's id and those of his keys; of a key its own."""
    keys = ApiKey.objects.filter(tenant_id=row.tenant_id, created_by_id=row.person).values_list("id", flat=True)
    return (str(row.person), *map(str, keys))


def _check_floors(tenant_id: UUID, hits: list[demand.Hit]) -> None:
    policy = policy_in_force(tenant_id)
    if policy is None:
        return
    now = datetime.now(UTC)
    floors = {name: policy.retention(name).floor_days for name in {hit.data_class for hit in hits}}
    young = [hit for hit in hits if hit.created_at > now - timedelta(days=floors[hit.data_class])]
    if young:
        name = young[0].data_class
        raise Conflict(
            f"{len(young)} records are younger than the policy's floor ({floors[name]} days for the class {name}). "
            "Only what the law asks for goes before a floor: give its basis, or wait.",
            code="within_floor",
        )


def _told(row: Erasure) -> dict[str, str | int]:
    given = {
        "month": str(row.month or ""),
        "request": row.request_id,
        "person": str(row.person or ""),
        "since": rfc3339(row.since) if row.since else "",
        "until": rfc3339(row.until) if row.until else "",
    }
    told = {name: value for name, value in given.items() if value}
    return {"kind": row.kind, "basis": row.basis, "records": row.records, **told}


def _event(what: EventType, actor: Actor, row: Erasure, **details: Any) -> Event:
    # The reason is people's words, and stays in the row.
    return Event(
        type=what,
        tenant_id=row.tenant_id,
        actor=actor.ref,
        resource=Resource("erasure", str(row.id), row.digest),
        request_id=current(),
        details=details,
    )
