"""Retention: what the policy in force no longer lets be kept is erased, class by class and tenant by tenant.

The policy that is active decides, within the platform's baseline; of its ceiling and the one under which a record was
stored the sooner counts, so that a looser policy never prolongs what was promised. The floor goes before the ceiling,
a legal hold before both. Without an active policy nothing is erased: nobody has said what should be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kasbah.audit.services import ActorRef
from kasbah.audit.services.content import erasure
from kasbah.common import rls
from kasbah.common.errors import Unavailable
from kasbah.common.isolation import Isolation
from kasbah.identity.models import DataClass, Tenant
from kasbah.residency.compiled import CompiledPolicy
from kasbah.residency.services.loaders import policy_in_force

EXCLUSIVE = "retention"  # one run at a time
logger = logging.getLogger(__name__)
isolation = Isolation(logger)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the policy says of one class, and what is there. Without a policy `rule` is None and nothing is due."""

    data_class: str
    rule: erasure.Rule | None
    kept: erasure.Kept


def standing(tenant: Tenant) -> list[Standing]:
    """What is kept of each class, and what is due, without touching it. Raises Unavailable."""
    with rls.tenant_scope(tenant.id):
        policy = policy_in_force(tenant.id)
        found = []
        for data_class in DataClass.values:
            rule = _rule(policy, tenant.id, data_class)
            # Without a policy everything stays: a floor that no record has reached.
            kept = erasure.count(rule or _untouched(tenant.id, data_class))
            found.append(Standing(data_class, rule, kept))
    return found


def erase_due(by: ActorRef, tenants: list[Tenant] | None = None) -> int:
    """Erase all that is due, of every tenant or of these, in batches that are each committed by themselves.

    A run that was broken off goes on where it was: what is erased is no longer due. Answers how many records.
    """
    total = 0
    for tenant in every_tenant() if tenants is None else tenants:
        with isolation.apart(f"The retention of tenant {tenant.slug}"):
            try:
                total += _erase_of(by, tenant)
            except Unavailable as error:
                logger.error("Retention of tenant %s is left: %s", tenant.slug, error)  # noqa: TRY400 - the reason is enough
    return total


def every_tenant() -> list[Tenant]:
    """All tenants: also those that are switched off keep content, and must let it go."""
    with rls.platform_scope():
        return list(Tenant.objects.order_by("id"))


def _erase_of(by: ActorRef, tenant: Tenant) -> int:
    while _clear(tenant):
        pass
    with rls.tenant_scope(tenant.id):
        policy = policy_in_force(tenant.id)
    total = 0
    for rule in _rules(policy, tenant.id):
        done = 0
        while erased := _batch(by, rule):
            done += erased
            logger.info("Retention of tenant %s: %d records of class %s erased", tenant.slug, done, rule.data_class)
        total += done
    return total


def _clear(tenant: Tenant) -> int:
    with rls.tenant_scope(tenant.id):
        return erasure.clear_batch(tenant.id)


def _batch(by: ActorRef, rule: erasure.Rule) -> int:
    with rls.tenant_scope(rule.tenant_id):
        return erasure.erase_batch(rule, by)


def _rules(policy: CompiledPolicy | None, tenant_id: UUID) -> Iterator[erasure.Rule]:
    for data_class in DataClass.values:
        if (rule := _rule(policy, tenant_id, data_class)) is not None:
            yield rule


def _rule(policy: CompiledPolicy | None, tenant_id: UUID, data_class: str) -> erasure.Rule | None:
    if policy is None:
        return None
    retention = policy.retention(data_class)
    return erasure.Rule(
        tenant_id=tenant_id,
        data_class=data_class,
        level=policy.content(data_class),
        floor_days=retention.floor_days,
        ceiling_days=retention.ceiling_days,
        policy_id=policy.policy_id,
        policy_version=policy.version,
    )


def _untouched(tenant_id: UUID, data_class: str) -> erasure.Rule:
    return erasure.Rule(
        tenant_id=tenant_id,
        data_class=data_class,
        level="commitment",
        floor_days=erasure.FOR_EVER,
        ceiling_days=0,
        policy_id="",
        policy_version=0,
    )


def facts(item: Standing) -> dict[str, Any]:
    """One class as the API and the command show it."""
    rule, kept = item.rule, item.kept
    return {
        "data_class": item.data_class,
        "level": rule.level if rule else None,
        "floor_days": rule.floor_days if rule else None,
        "ceiling_days": rule.ceiling_days if rule else None,
        "policy_version": rule.policy_version if rule else None,
        "records": kept.records,
        "sealed": kept.sealed,
        "oldest": kept.oldest,
        "due": kept.due,
        "held": kept.held,
    }
