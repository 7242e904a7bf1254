"""What a request must leave behind before it may go on: written in groups, each entry whole or not at all.

Before dispatch: the intent event and the job's row (and the claim of an idempotency key). Before the last bytes of an
answer: the job's end, its usage, the outcome event. With each event what the policy lets be
kept of the content. Who cannot write them must not go on (fail closed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from kasbah.audit import services as audit
from kasbah.audit.services import Event, content
from kasbah.audit.services.content import Record
from kasbah.common.database import Connection, Database
from kasbah.common.errors import Unavailable
from kasbah.common.groupcommit import GroupCommit
from kasbah.gateway import idempotency
from kasbah.gateway.idempotency import Answer, Claim
from kasbah.metering.services import UsageRow, insert_usage
from kasbah.serving.services import NewJob, Outcome, insert_jobs, settle_jobs

MAX_BATCH = 128


@dataclass(slots=True)
class Entry:
    """One thing to write. What is None has no part in it; `written` says afterwards whether it was."""

    event: Event
    job: NewJob | None = None
    claim: Claim | None = None  # of the job's idempotency key: lost when another request holds it
    outcome: Outcome | None = None
    usage: UsageRow | None = None
    answer: Answer | None = None  # to keep under the idempotency key
    content: Record | None = None  # what the policy lets be kept, committed to in the event
    written: bool = field(default=False, init=False)


class Ledger:
    """Groups what arrives together into one transaction."""

    def __init__(self, database: Database, row_lease: float) -> None:
        self._database = database
        self._row_lease = row_lease
        self._group: GroupCommit[Entry] = GroupCommit(self._flush, MAX_BATCH)

    async def write(self, entry: Entry) -> bool:
        """Returns once it is committed. False when it was not written because it came too late: another request
        holds the idempotency key, or somebody else settled the job. Raises Unavailable."""
        try:
            await self._group.submit(entry)
        except Unavailable:
            raise
        except Exception as error:
            raise Unavailable(
                "What must be recorded could not be; nothing was done. Try again.", code="not_recorded", retry_after=2
            ) from error
        return entry.written

    async def close(self) -> None:
        """Write what is still waiting."""
        await self._group.close()

    async def _flush(self, entries: list[Entry]) -> None:
        async with self._database.transaction(None) as connection:
            won = await idempotency.claim(connection, [entry.claim for entry in entries if entry.claim is not None])
            outcomes = [entry.outcome for entry in entries if entry.outcome is not None]
            stale = await settle_jobs(connection, outcomes) if outcomes else set()
            good = [entry for entry in entries if not _too_late(entry, won, stale)]
            await self._write(connection, good)
        for entry in good:
            entry.written = True

    async def _write(self, connection: Connection, entries: Sequence[Entry]) -> None:
        jobs = [entry.job for entry in entries if entry.job is not None]
        if jobs:
            await insert_jobs(connection, jobs, self._row_lease)
        usage = [entry.usage for entry in entries if entry.usage is not None]
        if usage:
            await insert_usage(connection, usage)
        answers = [entry.answer for entry in entries if entry.answer is not None]
        if answers:
            await idempotency.keep(connection, answers)
        await audit.insert(connection, [entry.event for entry in entries])
        await content.insert(connection, [(entry.content, entry.event.id) for entry in entries if entry.content])


def _too_late(entry: Entry, won: set[UUID], stale: set[UUID]) -> bool:
    if entry.claim is not None and entry.claim.job_id not in won:
        return True
    return entry.outcome is not None and entry.outcome.job_id in stale
