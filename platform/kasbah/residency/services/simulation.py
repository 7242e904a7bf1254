"""The simulator: a tenant's requests of a period, from its audit log, decided again with another policy."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db import OperationalError
from django.utils import timezone
from psycopg.errors import QueryCanceled

from inference_worker.contract import canonical
from kasbah.audit.services import Event, EventType, Resource, pruned, record, rfc3339, statement_timeout, stream
from kasbah.common import rls
from kasbah.common.errors import Invalid
from kasbah.common.requestid import current
from kasbah.identity.models import Tenant
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.document import PolicyInvalid, validate
from kasbah.residency.models import Policy
from kasbah.residency.recorded import UNREADABLE, past, recorded
from kasbah.residency.services.candidates import candidate
from kasbah.residency.simulation import CHANGES, Change, Kind, Past, Tally, Unknown, simulate

DAYS = 7  # of the default period
MOST_DAYS = 92
STATEMENT_SECONDS = 30
API_SECONDS = 60  # a request over the API may take this long; the command has no such limit
LOOK_AT_CLOCK = 1_000  # events
RECORDED = (EventType.INFERENCE_INTENT, EventType.INFERENCE_DENIED)
DENIED_BY_POLICY = "residency_denied"  # the reason in an event; others (a quota) say nothing about the policy


@dataclass(frozen=True, slots=True)
class Period:
    """`since` <= time < `until`, UTC."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None) -> Period:
        """The last seven days unless it is said otherwise. Raises Invalid."""
        end = (until or timezone.now()).astimezone(UTC)
        period = cls((since or end - timedelta(days=DAYS)).astimezone(UTC), end)
        if period.since >= period.until:
            raise Invalid("The period ends before it begins; give `since` before `until`.", param="since")
        if period.until - period.since > timedelta(days=MOST_DAYS):
            raise Invalid(f"A simulation looks at {MOST_DAYS} days at most; give a later `since`.", param="since")
        return period

    def __str__(self) -> str:
        """As in "requests ..."."""
        days, rest = divmod(self.until - self.since, timedelta(days=1))
        if not rest and timezone.now() - self.until < timedelta(minutes=10):
            return f"of the last {days} days" if days > 1 else "of the last 24 hours"
        return f"from {rfc3339(self.since)[:19]}Z to {rfc3339(self.until)[:19]}Z"


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came out. `policy_id` is "" for a document that is not kept."""

    policy_id: str
    version: int
    baseline_version: int
    period: Period
    tally: Tally
    pruned: int = 0  # events of the period that are no longer in the log, and so not counted

    @property
    def summary(self) -> str:
        """One line for the person who decides."""
        counts = self.tally.counts
        requests = "1 request" if counts[Kind.NEWLY_DENIED] == 1 else f"{counts[Kind.NEWLY_DENIED]} requests"
        text = f"would newly deny {requests} {self.period} and newly allow {counts[Kind.NEWLY_ALLOWED]}"
        if moved := counts[Kind.MOVED]:
            text += f"; {moved} more would be allowed at other sites than they were"
        if unknown := counts[Kind.NOT_COMPARABLE]:
            text += f"; {unknown} could not be compared"
        if self.pruned:
            text += f"; {self.pruned} events of the period were pruned from the log, and their requests are not counted"
        return text


def facts(result: Simulation) -> dict[str, Any]:
    """All of it as plain values, for the API and the command."""
    tally = result.tally
    kinds = [kind for kind in Kind if kind != Kind.NOT_COMPARABLE]
    return {
        "summary": result.summary,
        "policy": result.policy_id or None,
        "policy_version": result.version or None,
        "baseline_version": result.baseline_version or None,
        "since": result.period.since,
        "until": result.period.until,
        "requests": tally.requests,
        "pruned": result.pruned,
        "counts": {kind.value: tally.counts[kind] for kind in Kind},
        "groups": [
            {"by": by, "value": value, **{kind.value: counted[kind] for kind in kinds}}
            for (by, value), counted in sorted(tally.groups.items())
        ],
        "sites": [
            {"site": slug, "lost": moves["lost"], "gained": moves["gained"]}
            for slug, moves in sorted(tally.sites.items())
        ],
        "not_comparable": [{"reason": reason, "requests": count} for reason, count in tally.unknown.most_common()],
        "examples": {kind.value: tally.examples[kind] for kind in (*CHANGES, Kind.NOT_COMPARABLE)},
    }


def simulate_policy(
    actor: Actor,
    tenant: Tenant,
    policy: Policy | Mapping[str, Any],
    period: Period,
    *,
    seconds: float | None = API_SECONDS,
    on_change: Callable[[Change], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Simulation:
    """Decide the tenant's requests of `period` again with a version or a document that is not kept.

    `progress` hears how many events were read, now and then. Raises NotFound, Forbidden, PolicyInvalid, Unavailable,
    and Invalid when it takes longer than `seconds`. It reads the audit log, so it is on record.
    """
    require(actor, Permission.AUDIT_READ, tenant)
    document: Mapping[str, Any] = policy.document if isinstance(policy, Policy) else policy
    if problems := validate(document):
        raise PolicyInvalid(problems)
    policy_id, version = (str(policy.id), policy.version) if isinstance(policy, Policy) else ("", 0)
    compiled = candidate(tenant.id, document, policy_id=policy_id, version=version)
    with rls.tenant_scope(tenant.id):
        try:
            # Closed here: a cursor that is closed later would break whatever transaction its connection has by then.
            events = stream(tenant.id, RECORDED, period.since, period.until)
            with statement_timeout(STATEMENT_SECONDS), closing(events):
                requests = _requests(tenant.id, period, _within(events, seconds, progress))
                tally = simulate(requests, compiled, on_change)
        except OperationalError as error:
            if isinstance(error.__cause__, QueryCanceled):
                raise _too_long() from error
            raise
        baseline = compiled.baseline.version if compiled.baseline is not None else 0
        gone = pruned(tenant.id, period.since, period.until)
        result = Simulation(policy_id, version, baseline, period, tally, gone)
        record(_event(actor, tenant.id, result, hashlib.sha256(canonical.dumps(document)).hexdigest()))
    return result


def _within(events: Iterable[bytes], seconds: float | None, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """The same events, with an eye on the clock. Raises Invalid."""
    began = time.monotonic()
    for number, event in enumerate(events, 1):
        yield event
        if number % LOOK_AT_CLOCK == 0:
            if seconds is not None and time.monotonic() - began > seconds:
                raise _too_long()
            if progress is not None:
                progress(number)


def _too_long() -> Invalid:
    return Invalid(
        "There are too many events in this period to simulate them while you wait; give a shorter one, or run "
        "manage.py simulatepolicy.",
        param="since",
        code="period_too_long",
    )


def _requests(tenant_id: UUID, period: Period, events: Iterable[bytes]) -> Iterator[Past | Unknown]:
    """Those of the events in the period that tell of a request which the policy of then decided about."""
    since, until = rfc3339(period.since), rfc3339(period.until)
    for data in events:
        try:
            event = recorded(data)
        except msgspec.DecodeError:
            yield Unknown(request_id="", reason=UNREADABLE)
            continue
        if not since <= event.time < until:
            continue
        if event.type == EventType.INFERENCE_INTENT or event.reason == DENIED_BY_POLICY:
            yield past(tenant_id, event)


def _event(actor: Actor, tenant_id: UUID, result: Simulation, digest: str) -> Event:
    counts = result.tally.counts
    return Event(
        type=EventType.POLICY_SIMULATED,
        tenant_id=tenant_id,
        actor=actor.ref,
        resource=Resource("policy", result.policy_id, digest),
        request_id=current(),
        details={
            "version": result.version,
            "since": rfc3339(result.period.since),
            "until": rfc3339(result.period.until),
            "requests": result.tally.requests,
            **{kind.value: counts[kind] for kind in Kind},
        },
    )
