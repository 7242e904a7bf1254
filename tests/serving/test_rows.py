"""The fence of the rows, in batches of several tenants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from kasbah.common import rls
from kasbah.common.errors import Unavailable
from kasbah.serving.models import Job
from kasbah.serving.records import NewJob, Outcome
from kasbah.serving.rows import insert_jobs, raise_attempts, renew_rows, settle_jobs
from tests import factories
from tests.serving.world import World, apart

pytestmark = pytest.mark.django_db(transaction=True)


def new(world: World, home: factories.Household | None = None) -> NewJob:
    home = home or world.home
    return NewJob(
        id=uuid4(), tenant_id=home.tenant.id, project_id=home.project.id, api_key_id=home.key.id,
        deployment_id=world.deployment.id, model_digest=world.version.digest, request_id=f"req_{uuid4().hex}",
        endpoint="/v1/chat/completions", stream=True, data_class="internal", policy="p@1",
        sites=tuple(site.id for site in world.sites), site=world.sites[0].id, owner="web", payload=b"sealed",
        ticket="ticket 1",
    )  # fmt: skip


def end(job: NewJob, attempt: int = 1, **changes: Any) -> Outcome:
    given = {"state": "succeeded", "prompt_tokens": 2, "completion_tokens": 3, **changes}
    return Outcome(job_id=job.id, tenant_id=job.tenant_id, attempt=attempt, **given)


async def row(job: NewJob) -> Job:
    def read() -> Job:
        with rls.platform_scope():
            return Job.objects.get(pk=job.id)

    return await apart(read)


async def settled(database: Any, *outcomes: Outcome) -> set[UUID]:
    async with database.transaction(None) as connection:
        return await settle_jobs(connection, outcomes)


async def inserted(database: Any, *jobs: NewJob) -> None:
    async with database.transaction(None) as connection:
        await insert_jobs(connection, jobs, 15.0)


async def test_a_batch_of_two_tenants(database: Any, world: World) -> None:
    other = await apart(factories.household)
    jobs = [new(world), new(world, other), new(world)]
    await inserted(database, *jobs)
    assert await settled(database, *(end(job) for job in jobs)) == set()
    for job in jobs:
        found = await row(job)
        assert (found.state, found.prompt_tokens, found.completion_tokens) == ("succeeded", 2, 3)
        assert (found.tenant_id, found.payload) == (job.tenant_id, None)
        assert found.sites == [str(site) for site in job.sites]


async def test_only_the_current_attempt_counts_and_only_once(database: Any, world: World) -> None:
    job = new(world)
    await inserted(database, job)
    async with database.transaction(None) as connection:
        assert await raise_attempts(connection, [(job.id, 1, world.sites[1].id, "ticket 2")], 15.0) == {job.id}
        assert await raise_attempts(connection, [(job.id, 1, world.sites[0].id, "ticket 3")], 15.0) == set()
    assert await settled(database, end(job, 1, state="failed")) == {job.id}
    assert (await row(job)).state == "queued"
    assert await settled(database, end(job, 2)) == set()
    assert await settled(database, end(job, 2, state="failed")) == {job.id}
    found = await row(job)
    assert (found.state, found.attempt, found.site_id) == ("succeeded", 2, world.sites[1].id)
    assert found.ticket == "ticket 2", "the ticket of the attempt that ended"
    async with database.transaction(None) as connection:
        assert await raise_attempts(connection, [(job.id, 2, world.sites[0].id, "ticket 3")], 15.0) == set()
        await renew_rows(connection, [(job.id, 2, uuid4())], 999.0)
    assert (await row(job)).lease_until == found.lease_until


async def test_an_outcome_names_its_own_tenant(database: Any, world: World) -> None:
    other = await apart(factories.household)
    job = new(world)
    await inserted(database, job)
    stolen = replace(end(job), tenant_id=other.tenant.id)
    assert await settled(database, stolen) == {job.id}
    assert await settled(database, end(job)) == set()  # the negative control


async def test_a_row_cannot_mix_tenants(database: Any, world: World) -> None:
    other = await apart(factories.household)
    mixed = replace(new(world), api_key_id=other.key.id)
    with pytest.raises((psycopg.IntegrityError, Unavailable)):
        await inserted(database, mixed)
    assert await apart(world.jobs) == []


async def test_renewing_says_who_has_it(database: Any, world: World) -> None:
    job, worker = new(world), uuid4()
    await inserted(database, job)
    before = await row(job)
    async with database.transaction(None) as connection:
        await renew_rows(connection, [(job.id, 1, None)], 20.0)
    waiting = await row(job)
    async with database.transaction(None) as connection:
        await renew_rows(connection, [(job.id, 1, worker)], 30.0)
    claimed = await row(job)
    assert (waiting.state, waiting.worker_id) == ("queued", None)
    assert (claimed.state, claimed.worker_id) == ("running", worker)
    assert before.lease_until < waiting.lease_until < claimed.lease_until


async def test_nothing_to_write(database: Any, world: World) -> None:
    assert await settled(database) == set()
    await inserted(database)
    assert await apart(world.jobs) == []
