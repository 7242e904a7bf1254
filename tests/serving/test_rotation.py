"""Keys rotate while jobs flow: nothing is signed or sealed with a key that a live worker does not have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.utils import timezone

from inference_worker.contract import keys, sealing
from inference_worker.contract.frames import Done
from inference_worker.contract.messages import Assignment, checked
from inference_worker.contract.signing import Purpose, key_id, unb64
from kasbah.common import rls
from kasbah.common.errors import Conflict, NotFound
from kasbah.identity.services import actor_of_user
from kasbah.residency.models import KeyState, SigningKey, SiteKey
from kasbah.residency.services import control_keys, signing_keys, site_keys
from kasbah.serving.housekeeping import assignments, keyturn
from kasbah.serving.housekeeping.sites import reach
from kasbah.serving.models import FormerWorkerKey, Job, JobState, Worker
from kasbah.serving.services import find_receipt, revoke_worker
from kasbah.serving.services import keys as rotations
from tests import factories
from tests.factories import SYSTEM
from tests.inference_worker.harness import RunningWorker, start_worker
from tests.serving.world import Answer, Housekeeping, Web, World, apart, stand_in

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def running(world: World, tmp_path: Path) -> Iterator[RunningWorker]:
    """Housekeeping, and a worker at the first site."""
    with (
        Housekeeping(),
        start_worker(world.stores[0].url, tmp_path / "w", token=world.token(), models=world.models) as worker,
    ):
        yield worker


async def come_true(what: Callable[[], bool], timeout: float = 15.0) -> None:
    """Wait until the rows say so."""
    async with asyncio.timeout(timeout):
        while not await apart(what):  # noqa: ASYNC110 - it is other processes that are waited for
            await asyncio.sleep(0.1)


class Load:
    """Jobs, some at a time, until it is told to stop."""

    def __init__(self, web: Web, world: World) -> None:
        self.answers: list[Answer] = []
        self._web, self._world, self._stop = web, world, False

    async def one(self) -> None:
        while not self._stop:
            self.answers.append(await self._web.ask(self._world.request("[[tokens=3 delay=0.01]] hello")))

    async def during(self, work: Any) -> None:
        """Run it beside `work`, and a little before and after."""
        tasks = [asyncio.create_task(self.one()) for _ in range(4)]
        await asyncio.sleep(0.2)
        try:
            await work
        finally:
            await asyncio.sleep(0.3)
            self._stop = True
            await asyncio.gather(*tasks)


async def rotate(world: World, worker: str) -> None:
    """All three kinds, one after the other."""
    await apart(signing_keys.prepare_signing_key, SYSTEM)
    await come_true(lambda: not rotations.signing_rotation().following)
    await apart(site_keys.prepare_site_key, SYSTEM, world.sites[0])
    await come_true(lambda: not rotations.site_rotation(world.sites[0]).following)
    await apart(lambda: rotations.ask_rotation(SYSTEM, Worker.objects.get(pk=worker)))
    await come_true(lambda: FormerWorkerKey.objects.filter(worker__id=worker).exists())
    await asyncio.sleep(1.5)  # until the worker has read that its new key counts


@pytest.mark.slow
async def test_no_job_fails_while_every_kind_of_key_is_replaced(web: Web, world: World, running: RunningWorker) -> None:
    await web.ready(world)
    load = Load(web, world)
    await load.during(rotate(world, running.id))
    failed = [answer.last for answer in load.answers if not isinstance(answer.last, Done)]
    assert not failed, failed[:3]
    rows = await apart(world.jobs)
    assert len(rows) == len(load.answers) > 40
    assert {row.state for row in rows} == {JobState.SUCCEEDED}
    assert len({row.ticket.split(".")[0] for row in rows}) == 2, "tickets by the old and by the new key"
    assert len({row.receipt.split(".")[0] for row in rows}) == 2, "receipts by the old and by the new identity key"
    actor = actor_of_user(world.home.admin)
    for row in (rows[0], rows[-1]):
        shown = await apart(find_receipt, actor, row.request_id)
        assert shown is not None
        assert (shown["ticket"], shown["receipt"]) == (row.ticket, row.receipt)
        assert row.ticket.split(".")[0] in shown["control_plane_keys"]
        assert (shown["worker"]["key_valid_until"] is None) == (row is rows[-1]), "the first one's key was replaced"


@pytest.mark.slow
async def test_a_forced_switch_names_who_then_refuses(web: Web, world: World, running: RunningWorker) -> None:
    """The negative control: without waiting for the worker, its jobs are refused, and the load would have seen it."""
    await web.ready(world)

    def force() -> list[str]:
        site_keys.prepare_site_key(SYSTEM, world.sites[0])
        rotation = rotations.site_rotation(world.sites[0])
        site_keys.switch_site_key(SYSTEM, world.sites[0], **rotations.forced(rotation))
        return [str(worker.id) for worker in rotation.missing]

    assert await apart(force) == [running.id]
    await asyncio.sleep(0.1)
    answer = await web.ask(world.request("[[tokens=1]] hello"))
    refused = not isinstance(answer.last, Done)
    await asyncio.sleep(2.5)  # it has read its assignment
    assert isinstance((await web.ask(world.request("[[tokens=1]] hello"))).last, Done)
    assert refused, "the payload was sealed for a key that the worker did not have"


# --- rows alone


def heard(world: World, *, trusts: list[str] | None = None, opens: list[str] | None = None) -> Worker:
    """A live worker that says so of its keys."""
    made = Worker.objects.get(pk=stand_in(world).worker)
    made.trusted_keys, made.held_keys = trusts or [], opens or []
    made.save()
    return made


def test_a_next_key_waits_for_every_live_worker(world: World) -> None:
    old = control_keys().current.key_id
    first, second = heard(world, trusts=[old]), heard(world, trusts=[old])
    following = signing_keys.prepare_signing_key(SYSTEM).key_id
    with pytest.raises(Conflict, match="next key already"):
        signing_keys.prepare_signing_key(SYSTEM)
    assert bytes(SigningKey.objects.get(key_id=following).public_key) in control_keys().told, "handed out"
    for worker in (first, second):
        keyturn.turn_signing_keys()
        assert control_keys().current.key_id == old, "somebody does not know it yet"
        worker.trusted_keys = [old, following]
        worker.save()
    keyturn.turn_signing_keys()
    known = control_keys()
    assert known.current.key_id == following
    assert known.verifier.key_ids == sorted([old, following]), "published: old tickets verify"


def test_one_that_is_away_holds_nothing_up_and_is_still_reached(world: World) -> None:
    old = control_keys().current.key_id
    away = heard(world, trusts=[old])
    Worker.objects.filter(pk=away.pk).update(last_seen_at=timezone.now() - timedelta(minutes=1))
    signing_keys.prepare_signing_key(SYSTEM)
    keyturn.turn_signing_keys()
    SigningKey.objects.filter(state=KeyState.RETIRED).update(retired_at=timezone.now() - timedelta(hours=1))
    keyturn.turn_signing_keys()
    known = control_keys()
    assert known.current.key_id != old
    assert known.signer_for([old]).key_id == old, "its assignment is signed by the key that it believes"
    assert old not in {key_id(key) for key in known.told}, "and tells it not to any more"
    away.trusted_keys = [known.current.key_id]
    away.save()
    keyturn.turn_signing_keys()
    assert bytes(SigningKey.objects.get(key_id=old).private_key_sealed) == b"", "nobody needs it: destroyed"
    assert old in control_keys().verifier.key_ids


def test_a_revoked_signing_key_is_neither_told_nor_published(world: World) -> None:
    old = control_keys().current.key_id
    with pytest.raises(Conflict, match="switch first"):
        signing_keys.revoke_signing_key(SYSTEM, old)
    signing_keys.prepare_signing_key(SYSTEM)
    signing_keys.switch_signing_key(SYSTEM)
    signing_keys.revoke_signing_key(SYSTEM, old)
    known = control_keys()
    assert old not in known.verifier.key_ids
    assert old not in {key_id(key) for key in known.told}
    assert known.signer_for([old]).key_id == known.current.key_id
    with pytest.raises(NotFound):
        signing_keys.revoke_signing_key(SYSTEM, "0" * 16)


def test_a_site_key_is_destroyed_when_no_unfinished_job_can_need_it(world: World) -> None:
    site = world.sites[0]
    old = SiteKey.objects.get(site=site)
    site_keys.prepare_site_key(SYSTEM, site)
    keyturn.turn_site_keys(site, [])
    assert SiteKey.objects.get(site=site, state=KeyState.CURRENT).pk != old.pk
    assert old.key_id in site_keys.private_keys(site), "jobs under way still open"
    SiteKey.objects.filter(pk=old.pk).update(retired_at=timezone.now() - timedelta(hours=1))
    home = world.home
    with rls.platform_scope():
        job = Job.objects.create(
            tenant=home.tenant, project=home.project, api_key=home.key, deployment=world.deployment,
            request_id="req_old", endpoint="/v1/completions", stream=False, data_class="public", policy="p@1",
            sites=[str(site.id)], site=site, owner="background", lease_until=timezone.now(),
        )  # fmt: skip
        Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=2))
    keyturn.turn_site_keys(site, [])
    assert old.key_id in site_keys.private_keys(site), "a job that waits may be sealed for it"
    with rls.platform_scope():
        Job.objects.filter(pk=job.pk).update(state=JobState.FAILED)
    keyturn.turn_site_keys(site, [])
    assert old.key_id not in site_keys.private_keys(site)
    assert {event["type"] for event in factories.events_of(None)} >= {"site_key.created", "site_key.destroyed"}


def test_a_sites_keys_reach_each_worker_sealed_for_it_alone(world: World) -> None:
    site, own = world.sites[0], X25519PrivateKey.generate()
    worker, other = heard(world), heard(world)
    for row, key in ((worker, own), (other, X25519PrivateKey.generate())):
        row.box_key = key.public_key().public_bytes_raw()
        row.save()
    site_keys.prepare_site_key(SYSTEM, site)
    with reach(site) as reached:
        assignments.write(reached, [worker, other])
        tokens = reached.store.values([keys.assignment(str(row.id)) for row in (worker, other)])
    said = [
        checked(control_keys().verifier, Purpose.ASSIGNMENT, token.decode(), Assignment) for token in tokens if token
    ]
    assert len(said[0].site_keys) == 2, "the current and the next"
    for given, to_other in zip(said[0].site_keys, said[1].site_keys, strict=True):
        place: dict[str, Any] = {"worker": str(worker.id), "site": str(site.id), "name": given.key_id, "box_key": own}
        opened = sealing.open_site_key(unb64(given.box), **place)
        assert opened.private_bytes_raw() == site_keys.private_keys(site)[given.key_id].private_bytes_raw()
        for box, changed in ((to_other.box, {}), (given.box, {"worker": str(other.id)}), (given.box, {"name": "x"})):
            with pytest.raises(sealing.CannotOpen):
                sealing.open_site_key(unb64(box), **{**place, **changed})


def test_a_revoked_worker_never_sees_the_sites_next_key(world: World) -> None:
    site = world.sites[0]
    waiting = site_keys.prepare_site_key(SYSTEM, site)  # which the worker may have been given
    thief = heard(world, opens=[SiteKey.objects.get(site=site, state=KeyState.CURRENT).key_id, waiting.key_id])
    revoke_worker(SYSTEM, thief)
    following = SiteKey.objects.get(site=site, state=KeyState.NEXT)
    assert following.pk != waiting.pk
    assert waiting.key_id not in site_keys.private_keys(site)
    keyturn.turn_site_keys(site, [])
    site.refresh_from_db()
    assert bytes(site.sealing_public_key) == bytes(following.public_key)
