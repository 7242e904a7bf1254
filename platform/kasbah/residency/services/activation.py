"""Versions come into force: at once, or by the clock. What is due is compared once more before it decides."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from kasbah.audit.services import record
from kasbah.common import rls
from kasbah.common.errors import KasbahError
from kasbah.identity.services import Actor, Permission, Proposal, system
from kasbah.residency.models import BaselinePolicy, Policy, PolicyState, PolicyVersion
from kasbah.residency.services.shelves import Comparison, Shelf, shelf_of

logger = logging.getLogger(__name__)
COMPARED = ("findings", "needs_approval", "compared_version", "compared_digest")


def lasts() -> timedelta:
    """How long a request waits for its answer."""
    return timedelta(days=settings.POLICY_REQUEST_DAYS)


def proposal(policy: PolicyVersion) -> Proposal:
    """Who asked for a version to decide, and who wrote it."""
    shelf = shelf_of(policy)
    return Proposal(
        asked_by=policy.requested_by_id,
        written_by=policy.created_by_id,
        permission=Permission(f"{shelf.subject}.manage"),
        tenant_id=shelf.tenant_id,
    )


def note(policy: PolicyVersion, compared: Comparison) -> None:
    """Write a comparison into a version, which is not saved."""
    policy.findings, policy.needs_approval = compared.findings, compared.needs_approval
    policy.compared_version, policy.compared_digest = compared.version, compared.digest


def put_in_force(shelf: Shelf, actor: Actor, policy: PolicyVersion, active: PolicyVersion | None) -> None:
    """Make an approved version the one that decides, in the shelf's scope and under its lock."""
    if active is not None:
        active.state = PolicyState.SUPERSEDED
        active.save(update_fields=["state"])
    policy.state, policy.activated_at = PolicyState.ACTIVE, timezone.now()
    policy.save(update_fields=["state", "activated_at"])
    facts = {"superseded": active.version if active else 0, "bootstrap": policy.bootstrap}
    record(shelf.event("activated", actor, policy, **facts))


def activate_due() -> Counter[str]:
    """Activate what is due and end the requests that nobody answered; answers how many of each.

    Again changes nothing: every version is read again under its tenant's lock. One that fails stops no other.
    """
    now, done = timezone.now(), Counter[str]()
    with rls.platform_scope():
        due = [
            version
            for model in (BaselinePolicy, Policy)
            for version in (
                *(row for row in model.objects.filter(state=PolicyState.REQUESTED) if _over(row)),
                *model.objects.filter(state=PolicyState.APPROVED, activate_at__lte=now).order_by("activate_at", "pk"),
            )
        ]
    actor = system("housekeeping")
    for version in due:
        try:
            done[_carry_on(actor, version)] += 1
        except Exception:
            logger.exception("Version %s of %s was left as it is", version.version, shelf_of(version).subject)
            done["failed"] += 1
    return done


def _carry_on(actor: Actor, policy: PolicyVersion) -> str:
    """What became of it."""
    shelf = shelf_of(policy)
    with shelf.scope():
        shelf.lock()
        found, now = shelf.find(policy), timezone.now()
        if found.state == PolicyState.REQUESTED and _over(found):
            found.state = PolicyState.EXPIRED
            found.save(update_fields=["state"])
            record(shelf.event("expired", actor, found))
            return "expired"
        if found.state != PolicyState.APPROVED or found.activate_at is None or found.activate_at > now:
            return "settled by another"
        active = shelf.active()
        if reason := _obstacle(shelf, found, active):
            _send_back(shelf, actor, found, reason)
            return "sent back"
        put_in_force(shelf, actor, found, active)
        return "activated"


def _over(policy: PolicyVersion) -> bool:
    """Whether a request has ended by itself: its time is over, or whoever asked may no longer ask."""
    late = policy.expires_at is not None and policy.expires_at <= timezone.now()
    return late or proposal(policy).lapsed


def _obstacle(shelf: Shelf, policy: Any, active: PolicyVersion | None) -> str:
    """Why an approved version may not decide now, with the new comparison noted in it; "" when it may."""
    try:
        shelf.ready(policy)
        again = shelf.compare(policy, active)
    except KasbahError as error:
        return error.message
    if not again.needs_approval:
        return ""
    approved = policy.reviewed_by_id is not None or policy.bootstrap
    known = policy.findings if approved else []
    new = [found["message"] for found in again.findings if found not in known]
    if approved and not new and again.digest == policy.compared_digest:
        return ""
    note(policy, again)
    what = new[0] if new else f"version {again.version} became active since"
    return f"When its time came it was not what was agreed to any more: {what}"


def _send_back(shelf: Shelf, actor: Actor, policy: Any, reason: str) -> None:
    """It waits for a second person again; what was approved holds no more."""
    policy.state, policy.reason, policy.needs_approval = PolicyState.REQUESTED, reason[:500], True
    policy.reviewed_by, policy.reviewed_at = None, None
    policy.expires_at = timezone.now() + lasts()
    policy.save(update_fields=[*COMPARED, "state", "reason", "reviewed_by", "reviewed_at", "expires_at"])
    record(shelf.event("requested", actor, policy, sent_back=True, loosens=len(policy.findings)))
