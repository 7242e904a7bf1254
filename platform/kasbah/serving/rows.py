"""Job rows from the asynchronous side: inserted and settled in batches of any tenants, and fenced by the attempt.

Each function takes the connection of an open transaction that speaks for the platform (`Database.transaction(None)`):
a batch is one statement, however many tenants it has. Composite foreign keys tie a row to its own tenant's key and
project, and an outcome names the tenant whose job it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from kasbah.common.database import Connection
from kasbah.serving.records import NewJob, Outcome

INSERT = """
INSERT INTO serving_job (id, tenant_id, project_id, api_key_id, deployment_id, request_id, endpoint, stream,
    data_class, policy, sites, state, attempt, site_id, owner, lease_until, payload, ticket,
    prompt_tokens, completion_tokens, error_code, receipt, created_at)
SELECT id, tenant, project, api_key, deployment, request, endpoint, stream, data_class, policy, sites::jsonb, 'queued',
    1, site, owner, now() + %s * interval '1 second', payload, ticket, 0, 0, '', '', now()
FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::bool[],
    %s::text[], %s::text[], %s::text[], %s::uuid[], %s::text[], %b::bytea[], %s::text[])
AS new (id, tenant, project, api_key, deployment, request, endpoint, stream, data_class, policy, sites, site, owner,
    payload, ticket)
"""

# The fence: what an attempt that was given up says about the job changes nothing.
SETTLE = """
UPDATE serving_job AS job SET state = said.state, prompt_tokens = said.prompt, completion_tokens = said.completion,
    error_code = said.error, receipt = said.receipt, worker_id = coalesce(said.worker, job.worker_id),
    payload = NULL, finished_at = now()
FROM unnest(%s::uuid[], %s::uuid[], %s::int[], %s::text[], %s::int[], %s::int[], %s::text[], %s::text[], %s::uuid[])
AS said (id, tenant, attempt, state, prompt, completion, error, receipt, worker)
WHERE job.id = said.id AND job.tenant_id = said.tenant AND job.attempt = said.attempt
    AND job.state IN ('queued', 'running')
RETURNING job.id
"""

RAISE = """
UPDATE serving_job AS job SET attempt = job.attempt + 1, site_id = next.site, state = 'queued', worker_id = NULL,
    ticket = next.ticket, lease_until = now() + %s * interval '1 second'
FROM unnest(%s::uuid[], %s::int[], %s::uuid[], %s::text[]) AS next (id, attempt, site, ticket)
WHERE job.id = next.id AND job.attempt = next.attempt AND job.state IN ('queued', 'running')
RETURNING job.id
"""

RENEW = """
UPDATE serving_job AS job SET lease_until = now() + %s * interval '1 second',
    worker_id = coalesce(seen.worker, job.worker_id),
    state = CASE WHEN seen.worker IS NULL THEN job.state ELSE 'running' END
FROM unnest(%s::uuid[], %s::int[], %s::uuid[]) AS seen (id, attempt, worker)
WHERE job.id = seen.id AND job.attempt = seen.attempt AND job.state IN ('queued', 'running')
"""


async def insert_jobs(connection: Connection, jobs: Sequence[NewJob], row_lease: float) -> None:
    """Insert `jobs` as queued, first attempt; the sweeper leaves them alone for `row_lease` seconds."""
    if jobs:
        await connection.execute(INSERT, insert_parameters(jobs, row_lease))


def insert_parameters(jobs: Sequence[NewJob], row_lease: float) -> list[Any]:
    """The parameters of INSERT."""
    return [row_lease, *columns(map(_values, jobs))]


def _values(job: NewJob) -> tuple[Any, ...]:
    sites = msgspec.json.encode(job.sites).decode()
    return (
        job.id, job.tenant_id, job.project_id, job.api_key_id, job.deployment_id, job.request_id, job.endpoint,
        job.stream, job.data_class, job.policy, sites, job.site, job.owner, job.payload,
        job.ticket,
    )  # fmt: skip


async def settle_jobs(connection: Connection, outcomes: Sequence[Outcome]) -> set[UUID]:
    """Write how jobs ended. Answers the ids that were refused: another attempt is current, or somebody settled first.

    Usage and outcome event of a refused one must not be written: whoever settled it wrote them.
    """
    if not outcomes:
        return set()
    rows = await connection.execute(SETTLE, settle_parameters(outcomes))
    settled = {row[0] for row in await rows.fetchall()}
    return {outcome.job_id for outcome in outcomes} - settled


def settle_parameters(outcomes: Sequence[Outcome]) -> list[Any]:
    """The parameters of SETTLE, in the order of ids: batches of different processes must not wait for each other."""
    rows = [
        (
            item.job_id,
            item.tenant_id,
            item.attempt,
            item.state,
            item.prompt_tokens,
            item.completion_tokens,
            item.error_code,
            item.receipt,
            item.worker_id,
        )
        for item in sorted(outcomes, key=lambda item: item.job_id)
    ]
    return columns(rows)


async def raise_attempts(
    connection: Connection, jobs: Sequence[tuple[UUID, int, UUID, str]], row_lease: float
) -> set[UUID]:
    """Make a new attempt current: (job, attempt that was given up, site and ticket of the new one).

    Answers those raised.
    """
    rows = await connection.execute(RAISE, [row_lease, *columns(sorted(jobs))])
    return {row[0] for row in await rows.fetchall()}


async def renew_rows(connection: Connection, jobs: Sequence[tuple[UUID, int, UUID | None]], row_lease: float) -> None:
    """Keep the sweeper away from jobs that a web process looks after: (job, attempt, worker if claimed)."""
    await connection.execute(RENEW, [row_lease, *columns(sorted(jobs, key=lambda job: job[0]))])


def columns(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Rows (at least one) as one list a column, for unnest."""
    return [list(column) for column in zip(*rows, strict=True)]
