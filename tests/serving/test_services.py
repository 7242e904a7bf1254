"""Deployments, grants, tokens and receipts through services: who may, what is checked, what is recorded."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from inference_worker.contract import enrolment
from inference_worker.contract.messages import Receipt, checked
from inference_worker.contract.signing import Purpose, Verifier, unb64
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.identity.models import Role
from kasbah.identity.services import Actor, actor_of_user
from kasbah.registry.models import Stage
from kasbah.serving import services
from kasbah.serving.models import EnrolmentToken, IdempotencyKey, Worker
from kasbah.serving.tasks import expire_rows
from tests import factories
from tests.serving.world import World, apart, open_web, stand_in

pytestmark = pytest.mark.django_db(transaction=True)


def kinds(tenant: Any = None) -> list[str]:
    return [str(event["type"]) for event in factories.events_of(tenant)]


def developer(world: World) -> Actor:
    who = factories.user()
    factories.membership(world.home.tenant, who, Role.DEVELOPER)
    return actor_of_user(who)


def test_only_who_may_does(world: World) -> None:
    actor = developer(world)
    worker = stand_in(world)
    row = Worker.objects.get(pk=worker.worker)
    attempts: list[Any] = [
        lambda: services.create_deployment(actor, "mine", world.version, world.sites),
        lambda: services.update_deployment(actor, world.deployment, enabled=False),
        lambda: services.create_enrolment_token(actor, world.sites[0]),
        lambda: services.drain_worker(actor, row),
        lambda: services.resume_worker(actor, row),
        lambda: services.revoke_worker(actor, row),
        lambda: services.grant(actor, world.home.tenant, world.deployment),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden):
            attempt()
    stranger = factories.household()
    with pytest.raises(NotFound):
        services.grant(actor, stranger.tenant, world.deployment)
    worker.close()


def test_deploying(world: World) -> None:
    with pytest.raises(Conflict) as raised:
        services.create_deployment(factories.SYSTEM, world.deployment.name, world.version, world.sites)
    assert raised.value.param == "name"
    with pytest.raises(Invalid) as invalid:
        services.create_deployment(factories.SYSTEM, "nowhere", world.version, [])
    assert invalid.value.param == "sites"
    with pytest.raises(Invalid) as invalid:
        services.create_deployment(factories.SYSTEM, "typo", world.version, world.sites, {"max_modell_len": 1})
    assert "max_modell_len" in invalid.value.message
    with pytest.raises(Invalid) as invalid:
        services.create_deployment(factories.SYSTEM, "small", world.version, world.sites, {"max_num_seqs": 0})
    assert invalid.value.param == "engine_settings.max_num_seqs"
    world.version.stage = Stage.SCANNED
    with pytest.raises(Conflict) as raised:
        services.create_deployment(factories.SYSTEM, "early", world.version, world.sites)
    assert raised.value.code == "version_not_approved"
    assert kinds().count("deployment.created") == 1
    services.update_deployment(factories.SYSTEM, world.deployment, sites=world.sites[:1], enabled=True)
    assert kinds().count("deployment.changed") == 1
    assert list(world.deployment.sites.all()) == world.sites[:1]


def test_granting(world: World) -> None:
    other = factories.household()
    allowed = services.grant(factories.SYSTEM, other.tenant, world.deployment)
    with pytest.raises(Conflict):
        services.grant(factories.SYSTEM, other.tenant, world.deployment)
    services.revoke_grant(factories.SYSTEM, allowed)
    assert kinds(other.tenant.id) == ["deployment.granted", "deployment.grant_revoked"]


async def test_a_tenant_sees_what_it_was_granted(database: Any, world: World) -> None:
    async def names(tenant: Any) -> list[str]:
        async with database.transaction(tenant) as connection:
            return [item.name for item in await services.load_deployments(connection, tenant)]

    other = await apart(factories.household)
    assert await names(world.home.tenant.id) == [world.deployment.name]
    assert await names(other.tenant.id) == []
    async with database.transaction(world.home.tenant.id) as connection:
        (record,) = await services.load_deployments(connection, world.home.tenant.id)
        # One tenant's scope shows nothing of another's grants, whichever tenant is asked for.
        assert await services.load_deployments(connection, other.tenant.id) == ()
    assert set(record.sites) == {site.id for site in world.sites}
    assert record.model_digest == world.version.digest
    await apart(lambda: services.update_deployment(factories.SYSTEM, world.deployment, enabled=False))
    assert await names(world.home.tenant.id) == []


def test_a_token_is_sealed_and_shown_once(world: World) -> None:
    issued = services.create_enrolment_token(factories.SYSTEM, world.sites[0])
    parts = enrolment.parse_token(issued.text)
    row = EnrolmentToken.objects.get()
    assert parts.token_id == str(row.id)
    assert parts.secret not in bytes(row.secret_sealed)
    (event,) = [event for event in factories.events_of(None) if event["type"] == "enrolment_token.created"]
    assert issued.text not in str(event)


def test_a_revoked_worker_stays_revoked(world: World) -> None:
    worker = stand_in(world)
    row = Worker.objects.get(pk=worker.worker)
    services.revoke_worker(factories.SYSTEM, row)
    for verb in (services.drain_worker, services.resume_worker, services.revoke_worker):
        with pytest.raises(Conflict):
            verb(factories.SYSTEM, row)
    assert kinds().count("worker.revoked") == 1
    worker.close()


async def test_a_receipt_for_those_who_may_read_it(database: Any, world: World, app_url: str) -> None:
    worker = await apart(stand_in, world)
    async with open_web(database, app_url) as web:
        await web.ready(world)
        request = world.request("hello", stream=False)
        answer = asyncio.create_task(web.ask(request))
        while (message := worker.take()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        taken = worker.open(message)
        worker.claim(taken)
        worker.answer(taken)
        await answer
    found = await apart(services.find_receipt, factories.SYSTEM, request.request_id)
    assert found is not None
    assert found["site"]["slug"] == world.sites[0].slug
    # Checked with nothing but what was handed out.
    verifier = Verifier.from_raw(unb64(found["worker"]["public_key"]))
    receipt = checked(verifier, Purpose.RECEIPT, found["receipt"], Receipt)
    assert (receipt.job, receipt.site) == (str(found["job"]), str(world.sites[0].id))
    assert found["claims"]["tenant"] == str(world.home.tenant.id)
    stranger = await apart(lambda: actor_of_user(factories.household().admin))
    assert await apart(services.find_receipt, stranger, request.request_id) is None
    assert await apart(services.find_receipt, stranger, "req_none") is None
    own = actor_of_user(world.home.admin)
    assert await apart(services.find_receipt, own, request.request_id) is not None
    worker.close()


def test_expired_idempotency_keys_are_removed(world: World) -> None:
    from datetime import timedelta

    from django.utils import timezone

    with rls.platform_scope():
        for number, hours in enumerate((-1, 1)):
            IdempotencyKey.objects.create(
                tenant=world.home.tenant, api_key=world.home.key, key_digest=bytes([number]) * 32,
                body_digest=b"b" * 32, job_id=uuid4(), expires_at=timezone.now() + timedelta(hours=hours),
            )  # fmt: skip
    expire_rows()
    with rls.platform_scope():
        assert [bytes(row.key_digest)[0] for row in IdempotencyKey.objects.all()] == [1]
