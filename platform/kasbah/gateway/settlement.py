"""The end of a job: its row, its usage and the outcome event, in one transaction; then the reservation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from inference_worker.contract.frames import Done, Failed
from kasbah.audit import services as audit
from kasbah.audit.services import Event, EventType, content
from kasbah.common.errors import Unavailable
from kasbah.common.ids import uuid7
from kasbah.gateway import keeping
from kasbah.gateway.admission import Admitted
from kasbah.gateway.idempotency import Answer, Kept
from kasbah.gateway.ledger import Entry
from kasbah.gateway.runtime import Runtime
from kasbah.metering.services import UsageRow
from kasbah.serving.services import Outcome, Running

OUTCOMES = {
    "succeeded": audit.Outcome.SUCCESS,
    "cancelled": audit.Outcome.CANCELLED,
    "failed": audit.Outcome.FAILURE,
    "refused": audit.Outcome.DENIED,
}


async def settle(
    runtime: Runtime,
    admitted: Admitted,
    running: Running,
    last: Done | Failed,
    *,
    said: bytes,
    answer: Kept | None,
    keeps: bool,
    milliseconds: Mapping[str, int],
) -> None:
    """Commit how the job ended, then give back what was reserved and not used.

    `said`: what the client was answered, or is now, in the form that is committed to.
    `keeps`: an idempotency key is used up by a success, with `answer` to give again or, when that is None, without.
    Raises Unavailable when nothing could be committed: then the answer must not go out.
    """
    job = admitted.job
    outcome = running.outcome(last)
    usage = UsageRow(
        job_id=job.id,
        tenant_id=job.tenant_id,
        project_id=job.project_id,
        api_key_id=job.api_key_id,
        deployment=admitted.wish.deployment.name,
        endpoint=job.endpoint,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        exact=outcome.exact,
    )
    form = content.STREAM if job.stream else content.BODY
    record = await keeping.answer(runtime, admitted.place, form, said)
    used_up = keeps and admitted.wish.key is not None and outcome.state == "succeeded"
    entry = Entry(
        event=content.told(_event(admitted, running, outcome.state, last, milliseconds), record),
        outcome=outcome,
        usage=usage,
        answer=Answer(job.id, answer) if used_up else None,
        content=record,
    )
    if not await runtime.ledger.write(entry):
        raise Unavailable(
            "Another part of the platform ended this request. Try again.", code="settled_elsewhere", retry_after=1
        )
    with suppress(Unavailable):  # the usage row is there, and the reservation ends by itself
        await runtime.meter.settle(admitted.reservation, last.usage)


async def never_ran(runtime: Runtime, admitted: Admitted, code: str) -> None:
    """A job whose row stands and that could not be dispatched."""
    job = admitted.job
    outcome = Outcome(job_id=job.id, tenant_id=job.tenant_id, attempt=1, state="failed", error_code=code)
    event = replace(_outcome_of(admitted.intent), outcome=audit.Outcome.FAILURE, reason=code, site=str(job.site))
    with suppress(Unavailable):  # housekeeping ends it
        await runtime.ledger.write(Entry(event=event, outcome=outcome))
    with suppress(Unavailable):
        await runtime.meter.release(admitted.reservation)


def _event(
    admitted: Admitted, running: Running, state: str, last: Done | Failed, milliseconds: Mapping[str, int]
) -> Event:
    return replace(
        _outcome_of(admitted.intent),
        outcome=OUTCOMES[state],
        reason=last.code if isinstance(last, Failed) else "",
        site=str(running.site),
        worker=str(running.worker or ""),
        tokens=audit.Tokens(last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.exact),
        milliseconds=milliseconds,
        details={"attempt": running.attempt},
    )


def _outcome_of(intent: Event) -> Event:
    """The same request, told of again when it has ended."""
    return replace(
        intent,
        type=EventType.INFERENCE_OUTCOME,
        id=uuid7(),
        time=datetime.now(UTC),
        intent=intent.id,
        details={},
        commitments={},
    )
