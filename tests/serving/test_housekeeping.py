"""Hearing of workers and looking after orphaned jobs, tick by tick."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connections
from django.utils import timezone

from inference_worker.contract import enrolment, keys, messages, scripts
from inference_worker.contract.enrolment import Answer, Request
from inference_worker.contract.messages import Assignment, RefusalCode, checked
from inference_worker.contract.signing import Purpose, Signer, b64
from kasbah.common import rls
from kasbah.common.exclusive import exclusive
from kasbah.metering.models import Usage
from kasbah.residency.services import control_keys
from kasbah.serving import tasks
from kasbah.serving.housekeeping.sweep import sweep
from kasbah.serving.models import EnrolmentToken, Job, Worker, WorkerState
from kasbah.serving.services import (
    create_deployment,
    drain_worker,
    resume_worker,
    revoke_worker,
    submit_background,
    update_deployment,
)
from tests import factories
from tests.serving.stand_in import StandIn, Taken
from tests.serving.world import World, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def events(kind: str, tenant: Any = None) -> list[dict[str, Any]]:
    return [event for event in factories.events_of(tenant) if event["type"] == kind]


def worker_row(standing: StandIn) -> Worker:
    with rls.platform_scope():
        return Worker.objects.get(pk=standing.worker)


# --- enrolment


class Applicant:
    """A machine that wants to become a worker."""

    def __init__(self, world: World, token: str, *, site: int = 0, name: str = "w-new", claims: str = "") -> None:
        import redis

        self.signer = Signer.from_raw(os.urandom(32))
        self.parts = enrolment.parse_token(token)
        self.store: Any = redis.Redis.from_url(world.stores[site].url)
        self.request = Request(
            name=name,
            site=claims or world.sites[site].slug,
            public_key=b64(self.signer.public.public_bytes_raw()),
            box_key=b64(os.urandom(32)),
            nonce=os.urandom(8).hex(),
        )

    def apply(self) -> Answer | None:
        """Ask, let housekeeping tick, and read the answer."""
        self.store.xadd(keys.REPORTS, {keys.ENROL: enrolment.seal_request(self.parts, self.request)})
        tasks.collect_reports()
        box = self.store.get(keys.enrolment_answer(self.request.nonce))
        assert not self.store.xlen(keys.REPORTS)
        return enrolment.open_answer(self.parts, self.request.nonce, box) if box else None


def test_a_token_makes_one_worker(world: World) -> None:
    applicant = Applicant(world, world.token())
    answer = applicant.apply()
    assert answer is not None
    assert answer.error == ""
    assert answer.site == str(world.sites[0].id)
    assert answer.control_keys == [b64(key) for key in control_keys().told]
    with rls.platform_scope():
        row = Worker.objects.get(pk=answer.worker)
        assert bytes(row.public_key) == applicant.signer.public.public_bytes_raw()
        assert EnrolmentToken.objects.get().used_by_id == row.id
    assert len(events("worker.enrolled")) == 1
    # At once it is told what to serve.
    token = applicant.store.get(keys.assignment(answer.worker)).decode()
    assignment = checked(control_keys().verifier, Purpose.ASSIGNMENT, token, Assignment)
    assert [item.name for item in assignment.deployments] == [world.deployment.name]
    assert 0 < applicant.store.ttl(keys.enrolment_answer(applicant.request.nonce)) <= 60


def test_a_lost_answer_is_given_again_to_the_same_key(world: World) -> None:
    applicant = Applicant(world, world.token())
    first = applicant.apply()
    applicant.store.flushall()
    second = applicant.apply()
    assert first is not None
    assert second is not None
    assert (second.error, second.worker) == ("", first.worker)


@pytest.mark.parametrize("fault", ["used", "expired", "other site", "claims other site", "name taken", "bad name"])
def test_enrolments_that_are_refused(world: World, fault: str) -> None:
    token, options, said = world.token(), {}, ""
    if fault == "used":
        Applicant(world, token, name="w-first").apply()
        said = "has been used"
    elif fault == "expired":
        with rls.platform_scope():
            EnrolmentToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        said = "has expired"
    elif fault == "other site":
        options, said = {"site": 1}, "not for site tokyo"
    elif fault == "claims other site":
        options, said = {"claims": "tokyo"}, "not for site tokyo"
    elif fault == "name taken":
        Applicant(world, world.token(), name="w-new").apply()
        said = "choose another"
    else:
        options, said = {"name": "No Good"}, "lower-case"
    before = Worker.objects.count()
    answer = Applicant(world, token, **options).apply()  # type: ignore[arg-type]
    assert answer is not None
    assert said in answer.error
    assert (answer.worker, answer.control_keys) == ("", [])
    assert Worker.objects.count() == before
    assert len(events("worker.enrolment_refused")) == 1


def test_an_unknown_or_forged_token_is_not_answered(world: World) -> None:
    stranger, _ = enrolment.new_token("018f0000-0000-7000-8000-000000000001")
    assert Applicant(world, stranger).apply() is None
    real = enrolment.parse_token(world.token())
    forged = enrolment.PREFIX + b64(UUID(real.token_id).bytes + os.urandom(32))
    assert Applicant(world, forged).apply() is None
    assert Worker.objects.count() == 0


def test_a_machine_set_up_again_takes_its_name_back(world: World) -> None:
    first = Applicant(world, world.token(), name="gpu-1").apply()
    assert first is not None
    Worker.objects.update(state=WorkerState.LOST)
    second = Applicant(world, world.token(), name="gpu-1").apply()
    assert second is not None
    assert second.error == ""
    assert Worker.objects.get(pk=second.worker).name == "gpu-1"
    assert Worker.objects.get(pk=first.worker).name.startswith("gpu-1-")


def test_rubbish_in_the_stream_of_reports_is_passed_over(world: World, standing: StandIn) -> None:
    for fields in ({"enrol": b"\xff"}, {"refusal": "a.b.c"}, {"what": "?"}, {"refusal": standing.report()}):
        standing.store.xadd(keys.REPORTS, fields)
    applicant = Applicant(world, world.token())
    answer = applicant.apply()
    assert answer is not None
    assert answer.error == ""


# --- liveness


def test_what_a_worker_says_is_written_down(world: World, standing: StandIn) -> None:
    standing.alive(refused=3, stale=4)
    tasks.collect_reports()
    row = worker_row(standing)
    assert (row.engine, row.hardware, row.refused, row.stale_writes) == ("stand-in", {"cores": 2}, 3, 4)
    assert row.served[0]["state"] == "ready"
    assert row.last_seen_at is not None
    assert timezone.now() - row.last_seen_at < timedelta(seconds=5)


@pytest.mark.parametrize("how", ["old", "other worker", "other site", "other key"])
def test_reports_that_are_not_believed(world: World, standing: StandIn, how: str) -> None:
    changes: dict[str, Any] = {
        "old": {"time": messages.now() - 120},
        "other worker": {"worker": "018f0000-0000-7000-8000-000000000001"},
        "other site": {"site": str(world.sites[1].id)},
        "other key": {},
    }[how]
    if how == "other key":
        standing.signer = Signer.from_raw(os.urandom(32))
    standing.alive(refused=99, **changes)
    tasks.collect_reports()
    assert worker_row(standing).refused == 0
    good = stand_in(world)  # the negative control
    good.alive(refused=99)
    tasks.collect_reports()
    assert worker_row(good).refused == 99
    good.close()


def test_a_silent_worker_is_lost_and_comes_back(world: World, standing: StandIn) -> None:
    standing.store.delete(keys.worker(standing.worker))
    tasks.collect_reports()
    assert worker_row(standing).state == WorkerState.ENROLLED
    with rls.platform_scope():
        Worker.objects.update(last_seen_at=timezone.now() - timedelta(seconds=16))
    tasks.collect_reports()
    tasks.collect_reports()
    assert worker_row(standing).state == WorkerState.LOST
    assert len(events("worker.lost")) == 1
    standing.alive()
    tasks.collect_reports()
    assert worker_row(standing).state == WorkerState.ENROLLED
    assert len(events("worker.resumed")) == 1


# --- assignments


def assignment_of(standing: StandIn) -> Assignment:
    token = standing.store.get(keys.assignment(standing.worker)).decode()
    return checked(control_keys().verifier, Purpose.ASSIGNMENT, token, Assignment)


def test_assignments_follow_what_is_wanted(world: World, standing: StandIn) -> None:
    tasks.collect_reports()
    first = assignment_of(standing)
    assert (first.state, [item.deployment for item in first.deployments]) == ("active", [standing.deployment])
    assert first.deployments[0].model_digest == world.version.digest
    tasks.collect_reports()
    assert assignment_of(standing).revision == first.revision  # nothing new
    with rls.platform_scope():
        row = Worker.objects.get(pk=standing.worker)
    drain_worker(factories.SYSTEM, row)
    tasks.collect_reports()
    drained = assignment_of(standing)
    assert (drained.state, drained.revision > first.revision) == ("drained", True)
    resume_worker(factories.SYSTEM, row)
    more = create_deployment(factories.SYSTEM, "another", world.version, [world.sites[0]])
    elsewhere = create_deployment(factories.SYSTEM, "elsewhere", world.version, [world.sites[1]])
    update_deployment(factories.SYSTEM, world.deployment, enabled=False)
    tasks.collect_reports()
    served = [item.deployment for item in assignment_of(standing).deployments]
    assert served == [str(more.id)]
    assert str(elsewhere.id) not in served
    revoke_worker(factories.SYSTEM, row)
    tasks.collect_reports()
    assert (assignment_of(standing).state, assignment_of(standing).deployments) == ("revoked", [])


def test_an_assignment_that_the_store_lost_or_that_was_forged_is_written_again(world: World, standing: StandIn) -> None:
    tasks.collect_reports()
    first = assignment_of(standing)
    for wrong in (None, "a.b.c"):
        if wrong is None:
            standing.store.flushall()
        else:
            standing.store.set(keys.assignment(standing.worker), wrong)
        tasks.collect_reports()
        assert assignment_of(standing).revision > first.revision
        assert assignment_of(standing).deployments == first.deployments


# --- jobs that nobody looks after


def submit(world: World, owner: str = "background", **options: Any) -> Job:
    """A job whose row lease has passed."""
    (job_id,) = submit_background([world.request("hello", stream=False, **options)])
    due(owner=owner)
    with rls.platform_scope():
        return Job.objects.get(pk=job_id)


def due(**changes: Any) -> None:
    with rls.platform_scope():
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1), **changes)


def again(job: Job) -> Job:
    with rls.platform_scope():
        return Job.objects.get(pk=job.id)


def take(standing: StandIn, lease_ms: int = 60_000) -> Taken:
    message = standing.take()
    assert message is not None
    taken = standing.open(message)
    assert standing.claim(taken, lease_ms) == scripts.OK
    return taken


def test_a_background_job_is_settled_from_its_last_frame(world: World, standing: StandIn) -> None:
    job = submit(world)
    standing.answer(take(standing))
    assert sweep()["settled"] == 1
    row = again(job)
    assert (row.state, row.completion_tokens, str(row.worker_id)) == ("succeeded", 1, standing.worker)
    assert row.payload is None
    assert row.receipt
    assert row.finished_at is not None
    with rls.platform_scope():
        usage = Usage.objects.get(pk=job.id)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.deployment) == (1, 1, world.deployment.name)
    (intent,) = events("inference.intent", world.home.tenant.id)
    (outcome,) = events("inference.outcome", world.home.tenant.id)
    assert outcome["request_id"] == intent["request_id"] == row.request_id
    assert outcome["intent"] == intent["id"]  # else verify.py would say that the request has no outcome
    assert outcome["tokens"] == {"prompt": 1, "completion": 1, "exact": True}
    due()
    assert sweep() == {}
    assert len(events("inference.outcome", world.home.tenant.id)) == 1


def test_live_and_waiting_jobs_are_left_alone(world: World, standing: StandIn) -> None:
    job = submit(world)
    assert sweep()["extended"] == 1
    taken = take(standing)
    due()
    assert sweep()["extended"] == 1
    assert again(job).attempt == 1
    standing.answer(taken)
    due()
    assert sweep()["settled"] == 1


def test_an_orphan_is_sent_again_until_attempts_are_used_up(world: World, standing: StandIn) -> None:
    job = submit(world)
    for attempt in range(1, 6):
        taken = take(standing, lease_ms=1)
        assert taken.message.attempt == attempt
        time.sleep(0.01)
        due()
        done = sweep()
        assert standing.append(taken, standing.done(taken)) == (scripts.STALE if attempt < 5 else scripts.OK)
        assert done["resent" if attempt < 5 else "settled"] == 1
    row = again(job)
    assert (row.state, row.error_code, row.attempt) == ("failed", "worker_lost", 5)
    with rls.platform_scope():
        assert not Usage.objects.get(pk=job.id).exact or row.completion_tokens == 0


def test_a_store_that_lost_everything_gets_it_again(world: World, standing: StandIn) -> None:
    job = submit(world)
    standing.store.flushall()
    assert sweep()["resent"] == 1
    assert take(standing).message.attempt == 2
    assert again(job).state == "queued"


def test_a_store_that_is_away_loses_nothing(world: World, standing: StandIn) -> None:
    job = submit(world)
    world.stores[0].kill()
    try:
        assert sweep() == {"waiting for a site": 1}
        assert again(job).attempt == 1
    finally:
        world.stores[0].start()
    assert sweep()["resent"] == 1


def test_a_job_without_owner_is_cancelled_and_metered(world: World, standing: StandIn) -> None:
    job = submit(world, owner="web-gone")
    taken = take(standing)
    due()
    sweep()
    assert standing.append(taken, standing.done(taken, 5)) == scripts.OK
    assert standing.store.hget(keys.job(str(job.id)), "cancelled") == b"1"
    due()
    assert sweep()["settled"] == 1
    assert (again(job).state, again(job).completion_tokens) == ("succeeded", 5)


@pytest.mark.parametrize(("claimed", "state"), [(False, "cancelled"), (True, "failed")])
def test_a_job_without_owner_or_worker_ends(world: World, standing: StandIn, claimed: bool, state: str) -> None:
    job = submit(world, owner="web-gone")
    if claimed:
        take(standing, lease_ms=1)
        time.sleep(0.01)
        due(state="running")
    assert sweep()["settled"] == 1
    row = again(job)
    assert (row.state, row.error_code, row.attempt) == (state, "owner_lost", 1)
    assert standing.take() is None or not claimed
    (intent,) = events("inference.intent", world.home.tenant.id)
    assert [each["intent"] for each in events("inference.outcome", world.home.tenant.id)] == [intent["id"]]
    with rls.platform_scope():
        assert Usage.objects.get(pk=job.id).exact is not claimed


def test_a_living_owner_gets_a_second_chance_to_renew(world: World, standing: StandIn) -> None:
    """Its renewals may have failed because the database was away; a job that it forgot ends all the same."""
    job = submit(world, owner="web-alive")
    standing.store.xadd(keys.replies("web-alive"), {"o": ""})
    assert sweep()["extended"] == 1
    assert again(job).lease_until > timezone.now()
    due()
    assert sweep()["settled"] == 1
    assert again(job).state == "cancelled"


def test_a_forged_last_frame_settles_nothing_as_done(world: World, standing: StandIn) -> None:
    job = submit(world)
    taken = take(standing)
    standing.append(taken, standing.done(taken, 3, policy="another@1"))
    assert sweep()["settled"] == 1
    assert (again(job).state, again(job).error_code) == ("failed", "bad_receipt")


def test_a_failure_that_may_be_tried_again_is(world: World, standing: StandIn) -> None:
    job = submit(world)
    standing.fail(take(standing), retry=True)
    assert sweep()["resent"] == 1
    standing.answer(take(standing))
    due()
    sweep()
    assert (again(job).state, again(job).attempt) == ("succeeded", 2)


def test_refusals_are_recorded_and_acted_upon(world: World, standing: StandIn) -> None:
    job = submit(world)
    message = standing.take()
    assert message is not None
    standing.refuse(message, RefusalCode.REPLAYED)
    tasks.collect_reports()
    assert sweep()["extended"] == 1  # the first delivery may be running
    standing.refuse(message, RefusalCode.PAYLOAD_ALTERED)
    tasks.collect_reports()
    due()
    assert sweep()["settled"] == 1
    assert (again(job).state, again(job).error_code) == ("refused", "refused_by_worker")
    reasons = [event["reason"] for event in events("inference.refused", world.home.tenant.id)]
    assert reasons == ["replayed", "payload_altered"]


def test_a_worker_cannot_refuse_for_another_site(world: World, standing: StandIn) -> None:
    job = submit(world)
    message = standing.take()
    assert message is not None
    stranger = stand_in(world, 1)
    stranger.store = standing.store  # it writes into this site's store
    stranger.refuse(message, RefusalCode.BAD_TICKET)
    tasks.collect_reports()
    assert sweep()["extended"] == 1
    assert events("inference.refused", world.home.tenant.id) == []
    assert again(job).state == "queued"


@pytest.mark.parametrize(("sites", "moves"), [((0,), False), ((0, 1), True)], ids=["confined", "free"])
def test_no_attempt_of_the_sweeper_leaves_the_compliant_sites(
    world: World, standing: StandIn, sites: tuple[int, ...], moves: bool
) -> None:
    job = submit(world, sites=sites)
    other = stand_in(world, 1)
    tasks.collect_reports()
    assert job.site_id == world.sites[0].id
    with rls.platform_scope():
        Worker.objects.filter(pk=standing.worker).update(served=[])
    take(standing, lease_ms=1)
    time.sleep(0.01)
    due()
    assert sweep()["resent"] == 1
    assert (other.take() is not None) is moves
    assert again(job).site_id == world.sites[int(moves)].id
    other.close()


# --- one at a time


def test_two_schedulers_do_not_double(world: World, standing: StandIn) -> None:
    submit(world)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        try:
            with exclusive("sweep-jobs") as held:
                assert held
                inside.set()
                leave.wait(5)
        finally:
            connections.close_all()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(5)
    with rls.platform_scope():
        before = list(Job.objects.values_list("lease_until", flat=True))
    tasks.sweep_jobs()
    with rls.platform_scope():
        assert list(Job.objects.values_list("lease_until", flat=True)) == before
    leave.set()
    thread.join()
    tasks.sweep_jobs()
    with rls.platform_scope():
        assert list(Job.objects.values_list("lease_until", flat=True)) != before
