"""Limits: who has which, and setting them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import QuerySet

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls
from kasbah.common.database import Connection
from kasbah.common.errors import Forbidden, Invalid, NotFound
from kasbah.common.ids import uuid7
from kasbah.common.requestid import current
from kasbah.identity.models import ApiKey, Project, Tenant
from kasbah.identity.services import Actor, Permission, Principal, require
from kasbah.metering.models import Limit, LimitScope, Period

LOAD = """
SELECT id, scope, subject_id, requests_per_minute, tokens_per_minute, tokens_per_period, period
FROM metering_limit WHERE tenant_id = %s AND subject_id = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """One limit; None means none. `period` is day or month (UTC) and holds for tokens_per_period."""

    id: UUID
    scope: str
    subject_id: UUID
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_period: int | None = None
    period: str = Period.MONTH.value


@dataclass(frozen=True, slots=True)
class Limits:
    """All that hold for one key: its own, its project's and its tenant's."""

    records: tuple[LimitRecord, ...] = ()

    @property
    def tokens_at_once(self) -> int | None:
        """The most tokens that one request may ever take: the narrowest limit a minute. None: there is none."""
        numbers = (record.tokens_per_minute for record in self.records)
        return min((number for number in numbers if number is not None), default=None)


async def load_limits(connection: Connection, principal: Principal) -> Limits:
    """The limits of a key; `connection` speaks for its tenant or for the platform."""
    subjects = [principal.tenant_id, principal.project_id, principal.key_id]
    rows = await (await connection.execute(LOAD, [principal.tenant_id, subjects])).fetchall()
    return Limits(tuple(LimitRecord(*row) for row in rows))


def set_limit(
    actor: Actor,
    tenant: Tenant,
    *,
    scope: str,
    subject_id: UUID,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    tokens_per_period: int | None = None,
    period: str = Period.MONTH,
) -> Limit:
    """Set the one limit of a tenant, project or key, replacing what was. That of a whole tenant is the platform's.

    Raises NotFound, Forbidden, Invalid.
    """
    _require_manage(actor, tenant.id, scope)
    numbers = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_period": tokens_per_period,
    }
    _check(scope, numbers, period)
    with rls.tenant_scope(tenant.id):
        _require_subject(tenant, scope, subject_id)
        Tenant.objects.select_for_update(no_key=True).get(id=tenant.id)  # one change of limits at a time
        before = Limit.objects.filter(tenant=tenant, scope=scope, subject_id=subject_id).first()
        ident = before.id if before is not None and _same_quota(before, tokens_per_period, period) else uuid7()
        if before is not None and before.id != ident:
            before.delete()
        limit, _ = Limit.objects.update_or_create(
            id=ident,
            defaults={"tenant": tenant, "scope": scope, "subject_id": subject_id, "period": period, **numbers},
        )
        record(_event(EventType.LIMIT_SET, actor, limit))
    return limit


def remove_limit(actor: Actor, limit: Limit) -> None:
    """From now on nothing is limited here. Raises NotFound, Forbidden."""
    _require_manage(actor, limit.tenant_id, limit.scope)
    with rls.tenant_scope(limit.tenant_id):
        record(_event(EventType.LIMIT_REMOVED, actor, limit))
        limit.delete()


def _require_manage(actor: Actor, tenant_id: UUID, scope: str) -> None:
    """Return when `actor` may: within a tenant its administrator, above it the platform's alone."""
    require(actor, Permission.LIMIT_MANAGE, tenant_id)
    if scope == LimitScope.TENANT:
        try:
            require(actor, Permission.LIMIT_MANAGE, None)
        except Forbidden as error:
            raise Forbidden(
                "The limit of a whole tenant is set by the platform's administrators; ask one of them. Limits of its "
                "projects and keys are yours.",
                param="scope",
            ) from error


def _same_quota(before: Limit, tokens: int | None, period: str) -> bool:
    # The quota's counter is kept under the limit's id. While there was no quota nothing was counted, so a quota that
    # begins gets a new id, and with it a counter that is built from the usage rows.
    return before.tokens_per_period is not None and tokens is not None and before.period == period


def _check(scope: str, numbers: dict[str, int | None], period: str) -> None:
    if scope not in LimitScope.values:
        raise Invalid(f"Name a scope of: {', '.join(LimitScope.values)}.", param="scope")
    if period not in Period.values:
        raise Invalid(f"Name a period of: {', '.join(Period.values)}.", param="period")
    for name, number in numbers.items():
        most = 1_000_000_000 if name != "tokens_per_period" else 2**53 - 1
        if number is not None and not 0 <= number <= most:
            raise Invalid(f"Give a number from 0 to {most}, or null for no limit.", param=name)


def _require_subject(tenant: Tenant, scope: str, subject_id: UUID) -> None:
    subjects: dict[str, QuerySet[Tenant] | QuerySet[Project] | QuerySet[ApiKey]] = {
        LimitScope.TENANT.value: Tenant.objects.filter(id=subject_id),
        LimitScope.PROJECT.value: Project.objects.filter(id=subject_id),
        LimitScope.API_KEY.value: ApiKey.objects.filter(id=subject_id),
    }
    # Row-level security shows this tenant's objects only.
    if not subjects[scope].exists():
        raise NotFound(f"There is no such {scope} in this tenant.", param="subject_id")


def _event(kind: EventType, actor: Actor, limit: Limit) -> Event:
    facts: dict[str, str | int | None] = {
        "scope": str(limit.scope),
        "subject": str(limit.subject_id),
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
        "tokens_per_period": limit.tokens_per_period,
        "period": str(limit.period),
    }
    return Event(
        type=kind,
        tenant_id=limit.tenant_id,
        actor=actor.ref,
        resource=Resource("limit", str(limit.id)),
        request_id=current(),
        details={name: fact for name, fact in facts.items() if fact is not None},
    )
