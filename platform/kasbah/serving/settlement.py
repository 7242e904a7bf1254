"""Settling from housekeeping: rows, outcome events and usage in one transaction, each job once.

The gateway settles its own jobs in its group commits; here are those that nobody waits for any more, and those that
nobody ever waited for. What other apps do with a settled job (metering) they do in the same transaction:
the composition connects them with `on_settled`, because this app may not know them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from django.db import connection

from kasbah.audit.services import ActorRef, Event, EventType, Policy, Resource, Tokens, content, intents, record
from kasbah.audit.services import Outcome as AuditOutcome
from kasbah.common import rls
from kasbah.serving.models import JobState
from kasbah.serving.records import SettledJob
from kasbah.serving.rows import SETTLE, settle_parameters

Hook = Callable[[Sequence[SettledJob]], None]
_hooks: list[Hook] = []

AUDIT_OUTCOMES = {
    JobState.SUCCEEDED.value: AuditOutcome.SUCCESS,
    JobState.CANCELLED.value: AuditOutcome.CANCELLED,
    JobState.REFUSED.value: AuditOutcome.DENIED,
    JobState.FAILED.value: AuditOutcome.FAILURE,
}


def on_settled(hook: Hook) -> None:
    """Call `hook` with the jobs of each settlement, inside its transaction, which speaks for the platform."""
    if hook not in _hooks:
        _hooks.append(hook)


def settle(jobs: Sequence[SettledJob]) -> set[UUID]:
    """Write how jobs ended, with outcome events. Answers the ids that the fence refused: of those nothing is kept."""
    if not jobs:
        return set()
    with rls.platform_scope():
        with connection.cursor() as cursor:
            cursor.execute(SETTLE, settle_parameters([job.outcome for job in jobs]))
            settled = {row[0] for row in cursor.fetchall()}
        counted = [job for job in jobs if job.outcome.job_id in settled]
        told = intents([(job.outcome.tenant_id, job.request_id) for job in counted])
        for job in counted:
            event = outcome_event(job, told.get(job.request_id))
            record(content.late.keep(event, job.place, job.said) if job.place and job.said else event)
        for hook in _hooks:
            hook(counted)
    return {job.outcome.job_id for job in jobs} - settled


def outcome_event(job: SettledJob, intent: UUID | None) -> Event:
    """What the audit log keeps of how a job ended. `intent`: the event that it closes."""
    outcome = job.outcome
    policy, _, version = job.policy.rpartition("@")
    return Event(
        type=EventType.INFERENCE_OUTCOME,
        tenant_id=outcome.tenant_id,
        actor=ActorRef("api_key", str(job.api_key_id), "api_key"),
        outcome=AUDIT_OUTCOMES[outcome.state],
        resource=Resource("job", str(outcome.job_id)),
        reason=outcome.error_code,
        request_id=job.request_id,
        intent=intent,
        policy=Policy(policy, int(version or 0), "allow"),
        site=str(job.site_id or ""),
        worker=str(outcome.worker_id or ""),
        tokens=Tokens(outcome.prompt_tokens, outcome.completion_tokens, outcome.exact),
        details={"attempt": outcome.attempt, "settled_by": "housekeeping"},
    )
