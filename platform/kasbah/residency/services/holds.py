"""Legal holds: what must be kept for a proceeding is kept, whatever the policy's ceiling says.

One person places a hold, since it only keeps. Releasing one lets content be erased, so it takes two persons.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from inference_worker.contract import canonical
from kasbah.audit.models import LegalHold
from kasbah.audit.services import Event, EventType, Resource, record, rfc3339
from kasbah.audit.services.content import settle
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Invalid, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import DataClass, Project, Tenant
from kasbah.identity.services import (
    Actor,
    Permission,
    Proposal,
    acting_person,
    person_behind,
    require,
    require_approver,
    require_seen,
)

RELEASE_LASTS = timedelta(days=7)  # until a request to release, which nobody answered, may be made anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a hold is about: all that fits every condition which is given; none given is the whole tenant.

    `since` and `until` are about when content was stored; `until` is exclusive.
    """

    project_id: UUID | None = None
    data_class: str = ""
    request_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


def place_hold(actor: Actor, tenant: Tenant, reach: Reach, *, reason: str, reference: str) -> LegalHold:
    """Keep what is within `reach` until the hold is released. Raises NotFound, Forbidden, Invalid."""
    require(actor, Permission.HOLD_MANAGE, tenant)
    for name, text, longest in (("reason", reason, 500), ("reference", reference, 200)):
        if not text.strip() or len(text) > longest:
            raise Invalid(f"Give a {name}, at most {longest} characters.", param=name)
    with rls.tenant_scope(tenant.id):
        _check_reach(tenant, reach)
        settle(tenant.id)
        hold = LegalHold(
            tenant_id=tenant.id,
            project_id=reach.project_id,
            data_class=reach.data_class,
            request_id=reach.request_id,
            since=reach.since,
            until=reach.until,
            reason=reason.strip(),
            reference=reference.strip(),
            placed_by=person_behind(actor),
            placed_at=timezone.now(),
        )
        validation.save(hold, "This hold exists already; try again.")
        record(_event(EventType.HOLD_PLACED, actor, hold, **_told(reach)))
    return hold


def request_release(actor: Actor, hold: LegalHold, reason: str) -> LegalHold:
    """Ask that a hold be released; another person must agree within seven days. Raises NotFound, Forbidden, Conflict,
    Invalid."""
    require(actor, Permission.HOLD_RELEASE, hold.tenant_id)
    acting_person(actor)
    why = validation.check_reason(reason)
    with rls.tenant_scope(hold.tenant_id):
        found = _find(hold)
        asked = found.release_requested_at
        if asked is not None and timezone.now() < asked + RELEASE_LASTS and not _proposal(found).lapsed:
            raise Conflict("The release of this hold has been asked for; a second person releases it.")
        found.release_requested_by, found.release_requested_at = actor.user_id, timezone.now()
        found.release_reason = why
        found.save(update_fields=["release_requested_by", "release_requested_at", "release_reason"])
        record(_event(EventType.HOLD_RELEASE_REQUESTED, actor, found))
    return found


def release_seen_of(hold: LegalHold) -> str:
    """The digest that a release is bound to: what is held and why, who asks for its end and why; "": nobody asks."""
    if hold.release_requested_at is None:
        return ""
    document = {
        "id": str(hold.id),
        "reach": _told(_reach(hold)),
        "reason": hold.reason,
        "reference": hold.reference,
        "release_reason": hold.release_reason,
        "release_requested_by": str(hold.release_requested_by),
        "release_requested_at": rfc3339(hold.release_requested_at),
    }
    return hashlib.sha256(canonical.dumps(document)).hexdigest()


def release_hold(actor: Actor, hold: LegalHold, digest: str) -> LegalHold:
    """End a hold, as the second person. What the policy no longer keeps is erased when the retention job next runs.

    `digest` is of what was looked at (release_seen_of). Raises NotFound, Forbidden, Conflict.
    """
    require(actor, Permission.HOLD_RELEASE, hold.tenant_id)
    acting_person(actor)
    with rls.tenant_scope(hold.tenant_id):
        found = _find(hold)
        if found.release_requested_at is None:
            raise Conflict("Nobody has asked for the release of this hold; one person asks, another releases.")
        if timezone.now() >= found.release_requested_at + RELEASE_LASTS:
            raise Conflict("The request to release this hold has expired; it must be asked for again.")
        facts = require_approver(actor, _proposal(found))
        require_seen(digest, release_seen_of(found))
        found.released_by, found.released_at = acting_person(actor), timezone.now()
        found.save(update_fields=["released_by", "released_at"])
        requested_by = str(found.release_requested_by)
        record(_event(EventType.HOLD_RELEASED, actor, found, requested_by=requested_by, **facts))
    return found


def _find(hold: LegalHold) -> LegalHold:
    """The hold as it is now, locked. Raises NotFound, Conflict."""
    found = LegalHold.objects.select_for_update().filter(pk=hold.pk, tenant_id=hold.tenant_id).first()
    if found is None:
        raise NotFound("There is no such hold.")
    if found.released_at is not None:
        raise Conflict("This hold has been released; place a new one to keep what is still there.")
    return found


def _proposal(hold: LegalHold) -> Proposal:
    asked_by = hold.release_requested_by
    return Proposal(asked_by=asked_by, permission=Permission.HOLD_RELEASE, tenant_id=hold.tenant_id)


def _reach(hold: LegalHold) -> Reach:
    return Reach(
        project_id=hold.project_id,
        data_class=hold.data_class,
        request_id=hold.request_id,
        since=hold.since,
        until=hold.until,
    )


def _check_reach(tenant: Tenant, reach: Reach) -> None:
    if reach.data_class and reach.data_class not in DataClass.values:
        raise Invalid(f"Known classes: {', '.join(DataClass.values)}.", param="data_class")
    if reach.project_id and not Project.objects.filter(tenant_id=tenant.id, pk=reach.project_id).exists():
        raise NotFound("There is no such project in this tenant.", param="project")
    for name, moment in (("since", reach.since), ("until", reach.until)):
        if moment is not None and timezone.is_naive(moment):
            raise Invalid("Give a time with its time zone.", param=name)
    if reach.since and reach.until and reach.since >= reach.until:
        raise Invalid("The period ends before it begins.", param="until")


def _told(reach: Reach) -> dict[str, str]:
    """The reach as an event tells it: what is not given is left out."""
    given = {
        "project": str(reach.project_id or ""),
        "data_class": reach.data_class,
        "request": reach.request_id,
        "since": rfc3339(reach.since) if reach.since else "",
        "until": rfc3339(reach.until) if reach.until else "",
    }
    return {name: value for name, value in given.items() if value}


def _event(kind: EventType, actor: Actor, hold: LegalHold, **details: Any) -> Event:
    # Reason and reference are people's words, and stay in the hold's row.
    return Event(
        type=kind,
        tenant_id=hold.tenant_id,
        actor=actor.ref,
        resource=Resource("legal_hold", str(hold.id)),
        request_id=current(),
        details=details,
    )
