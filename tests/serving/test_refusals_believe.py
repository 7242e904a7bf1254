"""A refusal is believed once, for the current attempt, of a site of that job, within its time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from inference_worker.contract import keys
from inference_worker.contract.messages import JobMessage, Refusal, RefusalCode, now, signed
from inference_worker.contract.signing import Purpose
from kasbah.common import rls
from kasbah.serving.housekeeping import refusals, reports
from kasbah.serving.housekeeping.sweep import sweep
from kasbah.serving.models import Job, JobState
from tests.serving.stand_in import StandIn
from tests.serving.test_housekeeping import again, events, submit
from tests.serving.world import World, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def refuse(standing: StandIn, message: JobMessage, *, times: int = 1, **changes: Any) -> int:
    """Send one token so many times, and answer how many were not believed."""
    fields: dict[str, Any] = {
        "worker": standing.worker, "site": standing.site, "job": message.job, "attempt": message.attempt,
        "code": RefusalCode.PAYLOAD_ALTERED.value, "time": now(),
    }  # fmt: skip
    token = signed(standing.signer, Purpose.REPORT, Refusal(**(fields | changes)))
    for _ in range(times):
        standing.store.xadd(keys.REPORTS, {keys.REFUSAL: token})
    return reports.collect()["not believed"]


def told(world: World) -> int:
    return len(events("inference.refused", world.home.tenant.id))


def taken(world: World, standing: StandIn) -> tuple[Job, JobMessage]:
    job = submit(world)
    message = standing.take()
    assert message is not None
    return job, message


def test_one_refusal_sent_twenty_times_is_one_event(world: World, standing: StandIn) -> None:
    _, message = taken(world, standing)
    assert refuse(standing, message, times=20) == 19
    assert told(world) == 1
    assert refuse(standing, message, code="cannot_open") == 1  # the same attempt in other words
    assert told(world) == 1


@pytest.mark.parametrize("wrong", [{"attempt": 99}, {"attempt": 0}, {"time": 1}, {"time": now() + 10_000}])
def test_refusal_of_another_attempt_or_time_is_not_believed(
    world: World, standing: StandIn, wrong: dict[str, Any]
) -> None:
    job, message = taken(world, standing)
    assert refuse(standing, message, **wrong) == 1
    assert told(world) == 0
    assert standing.store.hget(keys.job(str(job.id)), "refused") is None
    assert refuse(standing, message) == 0  # the control
    assert told(world) == 1


def test_refusal_of_a_job_that_ended_is_not_believed(world: World, standing: StandIn) -> None:
    job, message = taken(world, standing)
    sent = standing.open(message)
    standing.claim(sent, 60_000)
    standing.answer(sent)
    assert sweep()["settled"] == 1
    assert refuse(standing, message, times=3) == 3
    assert (told(world), again(job).state) == (0, JobState.SUCCEEDED)


def test_refusal_by_a_worker_of_another_site_is_not_believed(world: World, standing: StandIn) -> None:
    _, message = taken(world, standing)
    other = stand_in(world, 1)  # at its own site, about a job that never was there
    assert refuse(other, message) == 1
    assert told(world) == 0
    other.close()


def test_replay_of_a_running_attempt_is_recorded_apart_and_ends_nothing(world: World, standing: StandIn) -> None:
    job, message = taken(world, standing)
    assert refuse(standing, message, times=3, code="replayed") == 2
    assert told(world) == 1
    assert standing.store.hget(keys.job(str(job.id)), "refused") is None
    assert refuse(standing, message) == 0
    assert told(world) == 2


def test_refusal_without_a_job_is_believed_once(world: World, standing: StandIn) -> None:
    nobody = JobMessage(job="", attempt=0, ticket="", payload="", reply_to="")
    assert refuse(standing, nobody, times=5, code="bad_message") == 4
    assert refuse(standing, nobody, code="bad_message", time=now() - 3000) == 1
    assert refuse(standing, nobody, code="bad_message", time=now() + 2) == 0
    assert refuse(standing, nobody, code="bad_message", time=now() + 1) == 1  # older than the last
    assert len(events("inference.refused")) == 2
    moment = now() + 3
    assert [refuse(standing, nobody, code=code, time=moment) for code in ("bad_ticket", "bad_message")] == [0, 0]
    assert len(events("inference.refused")) == 4


def test_without_the_guard_each_copy_is_an_event(
    world: World, standing: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: as it was, the token counts whenever it comes."""
    job, message = taken(world, standing)
    monkeypatch.setattr(refusals, "_job", lambda *_: job)
    assert refuse(standing, message, times=20, attempt=99) == 0
    assert told(world) == 20


def test_refusal_shows_on_the_worker(world: World, standing: StandIn) -> None:
    _, message = taken(world, standing)
    refuse(standing, message, code="wrong_model")
    with rls.platform_scope():
        (trouble,) = reports._workers(world.sites[0])[0].troubles
    assert (trouble["code"], trouble["text"]) == ("refuses", "it refuses jobs: wrong_model")
    assert trouble["seen"] <= time.time()
