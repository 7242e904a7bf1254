"""Pruning policies: two persons agree that old inference events may go; one person ends it, for that only keeps."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from django.utils import timezone

from inference_worker.contract import canonical
from kasbah.audit.asked import AskedState
from kasbah.audit.log.models import LEAST_DAYS
from kasbah.audit.log.pruning import prune_batch
from kasbah.audit.models import PruningPolicy
from kasbah.audit.services import ActorRef, Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Invalid, NotFound
from kasbah.common.isolation import Isolation
from kasbah.common.requestid import current
from kasbah.identity.models import Tenant
from kasbah.identity.services import (
    Actor,
    Permission,
    acting_person,
    require,
    require_approver,
    require_second_person,
    require_seen,
    system,
)
from kasbah.residency.services import asked
from kasbah.residency.services.activation import lasts

logger = logging.getLogger(__name__)
isolation = Isolation(logger)
EXCLUSIVE = "pruning"  # one run at a time
MOST_DAYS = 36_500


def request_pruning(actor: Actor, tenant: Tenant, keep_days: int, *, reason: str) -> PruningPolicy:
    """Ask that events older than `keep_days` may go. Raises NotFound, Forbidden, Invalid."""
    require(actor, Permission.ERASURE_MANAGE, tenant)
    if not LEAST_DAYS <= keep_days <= MOST_DAYS:
        raise Invalid(f"Events are kept for {LEAST_DAYS} days at least (AI Act, 19 and 26(6)).", param="keep_days")
    row = PruningPolicy(
        tenant_id=tenant.id,
        keep_days=keep_days,
        words=validation.check_reason(reason),
        requested_by=acting_person(actor),
        requested_at=timezone.now(),
        expires_at=timezone.now() + lasts(),
    )
    with rls.tenant_scope(tenant.id):
        validation.save(row, "This request exists already; try again.")
        record(_event(EventType.PRUNING_REQUESTED, actor, row))
    return row


def seen_of(policy: PruningPolicy) -> str:
    """The digest that an approval is bound to: what is asked for and why, and which policy it takes the place of."""
    with rls.tenant_scope(policy.tenant_id):
        now = PruningPolicy.objects.filter(tenant_id=policy.tenant_id, state=AskedState.APPROVED).values_list("id")
        document = {
            "id": str(policy.id),
            "keep_days": policy.keep_days,
            "reason": policy.words,
            "requested_by": str(policy.requested_by),
            "in_force": [str(ident) for (ident,) in now.order_by("id")],
        }
    return hashlib.sha256(canonical.dumps(document)).hexdigest()


def approve_pruning(actor: Actor, policy: PruningPolicy, digest: str) -> PruningPolicy:
    """Agree, as the second person; it takes the place of the one in force. `digest` is of what was looked at.

    Raises NotFound, Forbidden, Conflict.
    """
    require(actor, Permission.ERASURE_APPROVE, policy.tenant_id)
    with rls.tenant_scope(policy.tenant_id):
        found = asked.waiting(policy)
        facts = require_approver(actor, asked.proposal(found))
        require_seen(digest, seen_of(found))
        for old in PruningPolicy.objects.select_for_update().filter(
            tenant_id=policy.tenant_id, state=AskedState.APPROVED
        ):
            _end(actor, old)
        event = record(_event(EventType.PRUNING_APPROVED, actor, found, requested_by=str(found.requested_by), **facts))
        asked.answer(found, AskedState.APPROVED, acting_person(actor), event_id=event.id)
    return found


def reject_pruning(actor: Actor, policy: PruningPolicy, reason: str) -> PruningPolicy:
    """Refuse, as the second person. Raises NotFound, Forbidden, Conflict, Invalid."""
    require(actor, Permission.ERASURE_APPROVE, policy.tenant_id)
    with rls.tenant_scope(policy.tenant_id):
        found = asked.waiting(policy)
        reviewer = require_second_person(actor, asked.proposal(found))
        asked.answer(found, AskedState.REJECTED, reviewer, rejection=validation.check_reason(reason))
        record(_event(EventType.PRUNING_REJECTED, actor, found))
    return found


def end_pruning(actor: Actor, policy: PruningPolicy) -> PruningPolicy:
    """Take a request back, or end the policy in force; what was pruned stays pruned.

    Raises NotFound, Forbidden, Conflict.
    """
    require(actor, Permission.ERASURE_MANAGE, policy.tenant_id)
    acting_person(actor)
    with rls.tenant_scope(policy.tenant_id):
        found = PruningPolicy.objects.select_for_update().filter(pk=policy.pk, tenant_id=policy.tenant_id).first()
        if found is None:
            raise NotFound("There is no such policy.")
        if found.state == AskedState.APPROVED:
            _end(actor, found)
        elif found.state == AskedState.REQUESTED:
            found.state = AskedState.WITHDRAWN
            found.save(update_fields=["state"])
            record(_event(EventType.PRUNING_WITHDRAWN, actor, found))
        else:
            raise Conflict(f"This is {found.state}; there is nothing to end.")
    return found


def prune_due(by: ActorRef) -> int:
    """Prune all that may go, of every tenant, in batches that are each committed by themselves; answers how many."""
    with rls.platform_scope():
        policies = list(PruningPolicy.objects.filter(state=AskedState.APPROVED))
    total = 0
    for policy in policies:
        with isolation.apart(f"The pruning of tenant {policy.tenant_id}"):
            while done := _batch(policy, by):
                total += done
                logger.info("Pruned %d events of tenant %s", done, policy.tenant_id)
    return total


def expire_due() -> int:
    """End the requests that nobody answered in time; answers how many."""
    return asked.expire_due(PruningPolicy, lambda row: _event(EventType.PRUNING_EXPIRED, system("housekeeping"), row))


def _batch(policy: PruningPolicy, by: ActorRef) -> int:
    with rls.tenant_scope(policy.tenant_id):
        return prune_batch(policy, by)


def _end(actor: Actor, policy: PruningPolicy) -> None:
    policy.state = AskedState.ENDED
    policy.save(update_fields=["state"])
    record(_event(EventType.PRUNING_ENDED, actor, policy))


def _event(what: EventType, actor: Actor, row: PruningPolicy, **details: Any) -> Event:
    return Event(
        type=what,
        tenant_id=row.tenant_id,
        actor=actor.ref,
        resource=Resource("pruning_policy", str(row.id)),
        request_id=current(),
        details={"keep_days": row.keep_days, **details},
    )
