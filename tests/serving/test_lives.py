"""The lives of workers and sites: let in by a person, cordoned, drained, lost, back, revoked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis
from django.utils import timezone

from inference_worker.contract import keys
from inference_worker.contract.signing import fingerprint, unb64
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Unavailable
from kasbah.residency import services as residency
from kasbah.residency.models import SiteHealth
from kasbah.residency.services import SiteRecord
from kasbah.serving import services, tasks
from kasbah.serving.models import LOST_AFTER, Job, Worker
from tests import factories
from tests.inference_worker.harness import wait_for
from tests.serving.stand_in import StandIn
from tests.serving.test_housekeeping import Applicant, assignment_of, events, worker_row
from tests.serving.world import Web, World, apart, stand_in, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]
SYSTEM = factories.SYSTEM


def unapproved(world: World, name: str = "w-new") -> Applicant:
    """A machine with an ordinary token."""
    return Applicant(world, services.create_enrolment_token(SYSTEM, world.sites[0]).text, name=name)


def row_of(applicant: Applicant) -> Worker:
    with rls.platform_scope():
        return Worker.objects.get(public_key=applicant.signer.public.public_bytes_raw())


# --- approval


def test_who_was_not_approved_gets_nothing(world: World) -> None:
    applicant = unapproved(world)
    for _ in range(2):  # asking again changes nothing
        answer = applicant.apply()
        assert answer is not None
        assert (answer.pending, answer.error) == (True, "")
        assert (answer.site, answer.control_keys) == ("", [])
    row = row_of(applicant)
    assert (row.state, answer.worker) == ("pending", str(row.id))
    assert not applicant.store.exists(keys.assignment(answer.worker))
    (enrolled,) = events("worker.enrolled")
    assert enrolled["details"]["fingerprint"] == fingerprint(applicant.signer.public.public_bytes_raw())
    assert enrolled["details"]["preapproved"] is False
    # The negative control: with a token that says so, the same request is granted.
    granted = Applicant(world, world.token(), name="w-other").apply()
    assert granted is not None
    assert (granted.pending, granted.site) == (False, str(world.sites[0].id))
    said = msgspec.json.decode(unb64(applicant.store.get(keys.assignment(granted.worker)).decode().split(".")[1]))
    assert said["site_keys"], "the site's key comes with the assignment, sealed for the worker"
    assert events("worker.enrolled")[1]["details"]["preapproved"] is True


def test_an_approved_worker_goes_on_by_itself(world: World) -> None:
    applicant = unapproved(world)
    applicant.apply()
    row = row_of(applicant)
    with pytest.raises(Conflict) as raised:
        services.approve_worker(SYSTEM, row, expected="0000:" * 7 + "0000")
    assert raised.value.code == "wrong_fingerprint"
    assert row_of(applicant).state == "pending"
    shown = fingerprint(applicant.signer.public.public_bytes_raw())
    services.approve_worker(SYSTEM, row, expected=f" {shown.upper()}\n")
    answer = applicant.apply()
    assert answer is not None
    assert (answer.pending, answer.worker, answer.site) == (False, str(row.id), str(world.sites[0].id))
    assert applicant.store.exists(keys.assignment(answer.worker))
    (said,) = events("worker.approved")
    assert (said["details"]["fingerprint"], said["actor"]["kind"]) == (shown, "system")
    with pytest.raises(Conflict):
        services.approve_worker(SYSTEM, row)


def test_a_rejected_worker_and_its_token_are_of_no_use(world: World) -> None:
    applicant = unapproved(world)
    applicant.apply()
    services.reject_worker(SYSTEM, row_of(applicant))
    answer = applicant.apply()
    assert answer is not None
    assert "rejected" in answer.error
    assert answer.control_keys == []
    again = Applicant(world, world.token(), name="w-new")
    again.signer, again.request = applicant.signer, applicant.request
    refused = again.apply()
    assert refused is not None
    assert "key is enrolled already" in refused.error
    assert len(events("worker.rejected")) == 1


async def test_what_a_worker_that_waits_says_is_not_heard(web: Web, world: World) -> None:
    """It knows the broker, and reports as if it served: no job goes there, and nothing of it is written down."""
    made = await apart(stand_in, world)
    await web.ready(world)  # the negative control: approved, it is used
    await apart(lambda: Worker.objects.update(state="pending", served=[]))
    await until(lambda: not web.dispatcher.capacity.ready(world.deployment.id, [world.sites[0].id]), 1.0)
    await apart(tasks.collect_reports)
    row = await apart(worker_row, made)
    assert (row.state, row.served, row.alive) == ("pending", [], False)
    made.close()


@pytest.mark.parametrize(
    ("before", "verbs"),
    [
        ("pending", {"approve", "reject", "revoke"}),
        ("enrolled", {"cordon", "drain", "revoke"}),
        ("lost", {"cordon", "drain", "revoke"}),
        ("cordoned", {"drain", "resume", "revoke"}),
        ("drained", {"cordon", "resume", "revoke"}),
        ("revoked", set()),
    ],
)
def test_every_step_of_a_worker(world: World, standing: StandIn, before: str, verbs: set[str]) -> None:
    allowed = set()
    for verb in ("approve", "reject", "cordon", "drain", "resume", "revoke"):
        Worker.objects.update(state=before)
        change: Callable[..., Worker] = getattr(services, f"{verb}_worker")
        with pytest.raises(Forbidden):
            change(factories.fresh(world.home.admin), worker_row(standing))
        try:
            change(SYSTEM, worker_row(standing))
        except Conflict:
            assert worker_row(standing).state == before
        else:
            allowed.add(verb)
            assert worker_row(standing).state != before
    assert allowed == verbs


# --- workers that work no more, for a while or for good


async def test_a_revoked_workers_word_counts_no_more_within_a_second(web: Web, world: World) -> None:
    made = await apart(stand_in, world)
    await web.ready(world)
    running = await web.send(world.request("hello", stream=False))
    taken = made.open(await _taken(made))
    assert made.claim(taken) == 0
    await apart(lambda: services.revoke_worker(SYSTEM, worker_row(made)))
    await until(lambda: not web.dispatcher.capacity.by_key, 1.0)
    assert not web.dispatcher.capacity.ready(world.deployment.id, [world.sites[0].id])
    made.answer(taken)  # a receipt that holds, by a key that is refused
    answer = await web.collect(running)
    assert getattr(answer.last, "code", "") == "bad_receipt"
    assert answer.text == ""
    made.close()


async def _taken(made: StandIn) -> Any:
    return await apart(wait_for, made.take, 5)


@pytest.mark.parametrize("verb", ["cordon", "drain"])
async def test_a_cordoned_worker_gets_nothing_new(web: Web, world: World, verb: str) -> None:
    made = await apart(stand_in, world)
    await web.ready(world)
    running = await web.send(world.request("hello", stream=False))
    taken = made.open(await _taken(made))
    await apart(lambda: getattr(services, f"{verb}_worker")(SYSTEM, worker_row(made)))
    await until(lambda: not web.dispatcher.capacity.ready(world.deployment.id, [world.sites[0].id]), 1.0)
    assert made.claim(taken) == 0  # what it has it ends
    made.answer(taken)
    assert (await web.collect(running)).text == "hello"
    await apart(tasks.collect_reports)
    assert (await apart(assignment_of, made)).state == {"cordon": "cordoned", "drain": "drained"}[verb]
    await apart(lambda: services.resume_worker(SYSTEM, worker_row(made)))
    await web.ready(world)
    made.close()


# --- sites


@pytest.fixture
def two(world: World) -> Iterator[list[StandIn]]:
    """A worker at each site; the first has more room."""
    made = [stand_in(world, 0), stand_in(world, 1)]
    made[0].alive(capacity=64)
    yield made
    for each in made:
        each.close()


async def test_a_cordoned_site_gets_no_new_jobs(web: Web, world: World, two: list[StandIn]) -> None:
    await web.ready(world, (0, 1))
    running = await web.send(world.request("first", stream=False, sites=(0, 1)))
    assert running.site == world.sites[0].id
    await apart(lambda: residency.cordon_site(SYSTEM, world.sites[0]))
    sites = [site.id for site in world.sites]
    await until(lambda: web.dispatcher.capacity.ready(world.deployment.id, sites) == (sites[1],), 1.0)
    second = web.dispatcher.prepare(world.request(sites=(0, 1)))
    assert (second.site, second.sites) == (sites[1], tuple(sites)), "the other compliant site takes it"
    with pytest.raises(Unavailable):
        web.dispatcher.prepare(world.request(sites=(0,)))
    taken = two[0].open(await _taken(two[0]))  # what was sent there before ends there
    assert two[0].claim(taken) == 0
    two[0].answer(taken)
    assert (await web.collect(running)).text == "first"
    await apart(lambda: residency.resume_site(SYSTEM, world.sites[0]))
    await web.ready(world, (0, 1))


async def test_without_that_rule_a_cordoned_site_would_be_used(
    web: Web, world: World, two: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(SiteRecord, "takes_jobs", True)
    await apart(lambda: residency.cordon_site(SYSTEM, world.sites[0]))
    await asyncio.sleep(1.0)
    await web.ready(world, (0, 1))
    assert web.dispatcher.prepare(world.request(sites=(0, 1))).site == world.sites[0].id


def test_background_jobs_pass_a_cordoned_site_by(world: World, two: list[StandIn]) -> None:
    tasks.collect_reports()
    residency.cordon_site(SYSTEM, world.sites[0])
    (job,) = services.submit_background([world.request(stream=False, sites=(0, 1))])
    with rls.platform_scope():
        assert Job.objects.get(pk=job).site_id == world.sites[1].id


def test_a_drained_sites_engines_stop_when_its_jobs_have_ended(world: World, standing: StandIn) -> None:
    tasks.collect_reports()
    (job,) = services.submit_background([world.request(stream=False)])
    residency.drain_site(SYSTEM, world.sites[0])
    tasks.collect_reports()
    assert assignment_of(standing).state == "active", "its worker still has to take the job that waits"
    with rls.platform_scope():
        Job.objects.filter(pk=job).update(state="succeeded", finished_at=timezone.now())
    tasks.collect_reports()
    assert assignment_of(standing).state == "drained"
    residency.resume_site(SYSTEM, world.sites[0])
    tasks.collect_reports()
    assert assignment_of(standing).state == "active"
    assert [event["type"] for event in factories.events_of(None) if event["type"] in {"site.drained", "site.resumed"}]


@pytest.mark.parametrize("verb", ["cordon", "drain", "resume"])
def test_what_is_so_already_is_said(world: World, verb: str) -> None:
    change = getattr(residency, f"{verb}_site")
    if verb != "resume":
        change(SYSTEM, world.sites[0])
    with pytest.raises(Conflict, match="already"):
        change(SYSTEM, world.sites[0])


# --- what is found there


def health(world: World, site: int = 0) -> SiteHealth:
    with rls.platform_scope():
        return SiteHealth.objects.get(site=world.sites[site])


def test_a_site_is_empty_live_lost_and_back(world: World, standing: StandIn) -> None:
    standing.alive(running=3)
    tasks.collect_reports()
    assert (health(world).life, health(world, 1).life) == ("live", "empty")
    found = health(world)
    assert (found.workers, found.alive, found.capacity, found.running) == (1, 1, 8, 3)
    standing.store.delete(keys.worker(standing.worker))
    tasks.collect_reports()
    assert (health(world).life, health(world).alive) == ("lost", 0)
    assert [event["reason"] for event in events("site.lost")] == ["lost"]
    standing.alive()
    tasks.collect_reports()
    assert health(world).life == "live"
    assert len(events("site.back")) == 1
    tasks.collect_reports()
    assert len(events("site.back")) == 1


def test_a_store_that_cannot_be_reached_is_shown_without_its_password(world: World) -> None:
    residency.update_site(SYSTEM, world.sites[0], broker_url="redis://:hunter2@127.0.0.1:1/0")
    tasks.collect_reports()
    found = health(world)
    assert (found.life, found.store_state, found.broker_state) == ("unreachable", "ConnectionError", "ok")
    assert found.checked_at is not None
    assert health(world, 1).life == "empty"  # the others are looked at all the same
    assert "hunter2" not in json.dumps(factories.events_of(None))


def test_a_broker_beside_the_store_that_cannot_be_reached(world: World, standing: StandIn) -> None:
    url = "amqp://guest:hunter2@127.0.0.1:1//"
    residency.update_site(SYSTEM, world.sites[0], broker_url=url, store_url=world.stores[0].url)
    tasks.collect_reports()
    found = health(world)
    assert (found.life, found.store_state, found.alive) == ("unreachable", "ok", 1)
    assert found.broker_state not in {"", "ok"}
    assert "hunter2" not in json.dumps(factories.events_of(None)) + found.broker_state


async def test_jobs_stay_away_from_a_site_whose_broker_is_away(web: Web, world: World, two: list[StandIn]) -> None:
    await web.ready(world, (0, 1))
    url = "amqp://guest:guest@127.0.0.1:1//"
    move = {"broker_url": url, "store_url": world.stores[0].url}
    await apart(lambda: residency.update_site(SYSTEM, world.sites[0], **move))
    sites = [site.id for site in world.sites]
    await until(lambda: web.dispatcher.capacity.ready(world.deployment.id, sites) == (sites[1],), 5.0)


async def test_a_redis_beside_the_store_carries_jobs_too(web: Web, world: World) -> None:
    """The second site's Valkey carries the jobs of the first, whose own keeps the rest."""
    broker, store = world.stores[1].url, world.stores[0].url
    await apart(lambda: residency.update_site(SYSTEM, world.sites[0], broker_url=broker, store_url=store))
    made = await apart(stand_in, world)
    await web.ready(world)
    running = await web.send(world.request("beside", stream=False))
    assert made.take() is None
    carried, queue = redis.Redis.from_url(broker), keys.queue(made.deployment)
    envelope: Any = await apart(wait_for, lambda: carried.rpop(queue), 5)
    made.store.lpush(queue, envelope)
    taken = made.open(await _taken(made))
    assert made.claim(taken) == 0
    made.answer(taken)
    assert (await web.collect(running)).text == "beside"
    carried.close()
    made.close()


def test_alive_is_by_the_last_word(world: World, standing: StandIn) -> None:
    tasks.collect_reports()
    row = worker_row(standing)
    assert (row.alive, row.capacity) == (True, 8)
    row.last_seen_at = timezone.now() - LOST_AFTER
    assert (row.alive, row.capacity) == (False, 0)
