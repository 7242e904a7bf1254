"""From draft to active: asked for, compared, approved by a second person where it loosens anything.

An approval is bound to what was looked at: the document, the version that it was compared with, and what was found.
When one of them is no longer what it was, it holds for nothing and the version is compared again.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from kasbah.audit.services import record
from kasbah.common import validation
from kasbah.common.errors import Conflict, Forbidden, Invalid
from kasbah.identity.services import Actor, person_behind, require_approver, require_second_person
from kasbah.residency.models import PolicyState, PolicyVersion
from kasbah.residency.services.activation import COMPARED, lasts, note, proposal, put_in_force
from kasbah.residency.services.shelves import Comparison, Shelf, Version, shelf_of

AHEAD = timedelta(days=366)
ASKED = ("requested_by", "requested_at", "expires_at", "activate_at", "bootstrap", "reason", "state", *COMPARED)


def request_activation(
    actor: Actor, policy: Version, at: datetime | None = None, *, bootstrap: bool = False
) -> Version:
    """Ask that a draft decide, from `at` or from now on. What loosens nothing is approved by that; the rest waits.

    A version that waits already is compared anew, and who asks now is who asked. `bootstrap`: the installation's own
    command sets up a tenant that never had a policy, when there is nobody yet to ask; the event says so.
    Raises NotFound, Forbidden, Conflict, Invalid, and PolicyInvalid with every problem.
    """
    shelf = shelf_of(policy)
    shelf.require(actor, "manage")
    with shelf.scope():
        shelf.lock()
        found, active = shelf.find(policy), shelf.active()
        _check_turn(found, active)
        shelf.ready(found)
        compared = shelf.compare(found, active)
        _check_asker(shelf, actor, compared, bootstrap)
        waits = compared.needs_approval and not bootstrap
        now = timezone.now()
        found.requested_by_id, found.requested_at = person_behind(actor), now
        found.activate_at, found.expires_at = _checked(at, now), now + lasts() if waits else None
        found.bootstrap, found.reason = compared.needs_approval and bootstrap, ""
        found.state = PolicyState.REQUESTED if waits else PolicyState.APPROVED
        note(found, compared)
        found.save(update_fields=ASKED)
        facts = {"compared": compared.version, "loosens": len(compared.findings), "needs_approval": waits}
        record(shelf.event("requested", actor, found, **facts, **_when(found)))
        if not waits and found.activate_at is None:
            put_in_force(shelf, actor, found, active)
    return found


def approve_policy(actor: Actor, policy: Version, comparison: str) -> Version:
    """Agree, as the second person, to what a request loosens; it decides from its time on, or from now.

    `comparison` is the one that was looked at.
    Raises NotFound, Forbidden, Conflict, PolicyInvalid.
    """
    shelf = shelf_of(policy)
    shelf.require(actor, "approve")
    _check_person(actor, "approved")
    with shelf.scope():
        shelf.lock()
        found, active = shelf.find(policy), shelf.active()
        _check_waiting(found)
        facts = require_approver(actor, proposal(found))
        shelf.ready(found)
        _check_bound(shelf, found, active, comparison)
        found.reviewed_by_id, found.reviewed_at = actor.user_id, timezone.now()
        found.state, found.reason = PolicyState.APPROVED, ""
        found.save(update_fields=["reviewed_by", "reviewed_at", "state", "reason"])
        record(shelf.event("approved", actor, found, comparison=found.comparison, **_when(found), **facts))
        if found.activate_at is None or found.activate_at <= timezone.now():
            put_in_force(shelf, actor, found, active)
    return found


def reject_policy(actor: Actor, policy: Version, reason: str) -> Version:
    """Refuse a request, as the second person; it ends there. Raises NotFound, Forbidden, Conflict, Invalid."""
    shelf = shelf_of(policy)
    shelf.require(actor, "approve")
    _check_person(actor, "rejected")
    why = validation.check_reason(reason)
    with shelf.scope():
        shelf.lock()
        found = shelf.find(policy)
        _check_waiting(found)
        require_second_person(actor, proposal(found))
        found.reviewed_by_id, found.reviewed_at = actor.user_id, timezone.now()
        found.state, found.reason = PolicyState.REJECTED, why
        found.save(update_fields=["reviewed_by", "reviewed_at", "state", "reason"])
        record(shelf.event("rejected", actor, found))
    return found


def withdraw_policy(actor: Actor, policy: Version) -> Version:
    """Take back a request, or an activation whose time has not come. Raises NotFound, Forbidden, Conflict."""
    shelf = shelf_of(policy)
    shelf.require(actor, "manage")
    with shelf.scope():
        shelf.lock()
        found = shelf.find(policy)
        if found.state not in (PolicyState.REQUESTED, PolicyState.APPROVED):
            raise Conflict(f"Version {found.version} is {found.state}; there is nothing to withdraw.")
        was, found.state = found.state, PolicyState.WITHDRAWN
        found.save(update_fields=["state"])
        record(shelf.event("withdrawn", actor, found, was=str(was)))
    return found


def _when(policy: PolicyVersion) -> dict[str, str]:
    return {"activate_at": policy.activate_at.isoformat()} if policy.activate_at else {}


def _checked(at: datetime | None, now: datetime) -> datetime | None:
    if at is not None and (timezone.is_naive(at) or not now < at < now + AHEAD):
        raise Invalid("Give a time in the future, within a year, with its time zone.", param="at")
    return at


def _check_turn(policy: PolicyVersion, active: PolicyVersion | None) -> None:
    if policy.state not in (PolicyState.DRAFT, PolicyState.REQUESTED):
        raise Conflict(f"Version {policy.version} is {policy.state}; to use its document again, roll back to it.")
    if active is not None and active.version > policy.version:
        raise Conflict(f"The later version {active.version} is active; make a new version of this document instead.")


def _check_asker(shelf: Shelf, actor: Actor, compared: Comparison, bootstrap: bool) -> None:
    if not compared.needs_approval:
        return
    if not bootstrap:
        if actor.user_id is None:
            raise Forbidden(
                "This needs a second person's approval, so it is asked for by a person, not by a key or a program. "
                "Commands name him, with --by; approvepolicy names the second.",
                code="person_needed",
            )
        return
    if actor.kind != "system" or actor.authentication != "command":
        raise Forbidden("Only a command of the installation itself goes without a second person.")
    if shelf.versions.exclude(activated_at=None).exists():
        raise Conflict("There has been an active policy already; from now on a second person approves.")


def _check_person(actor: Actor, done: str) -> None:
    if actor.user_id is None:
        raise Forbidden(f"A policy is {done} by a person who is logged in, not by a key or a program.")


def _check_waiting(policy: PolicyVersion) -> None:
    if policy.state != PolicyState.REQUESTED:
        raise Conflict(f"Version {policy.version} is {policy.state}; nobody asks for its approval.")
    if policy.requested_by_id is None:
        raise Conflict(f"No person asked for version {policy.version}; one must (request-activation) before a second.")
    if policy.expires_at is None or policy.expires_at <= timezone.now():
        raise Conflict(f"The request of version {policy.version} has expired. Ask for it again as a new version.")


def _check_bound(shelf: Shelf, policy: PolicyVersion, active: PolicyVersion | None, comparison: str) -> None:
    again = shelf.compare(policy, active)
    same = (again.findings, again.digest) == (policy.findings, policy.compared_digest)
    if not same or comparison != policy.comparison:
        raise Conflict(
            f"What version {policy.version} loosens is no longer what was compared"
            f"{' with version ' + str(policy.compared_version) if policy.compared_version else ''}. Have it compared "
            "again (request-activation), look at what it finds now, and approve that.",
            code="comparison_stale",
        )
