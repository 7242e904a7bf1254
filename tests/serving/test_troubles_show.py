"""What is wrong with a worker is shown where the operator looks, told to the worker, and logged once a change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command

from inference_worker.contract import keys
from inference_worker.contract.messages import Assignment, Served, checked, now
from inference_worker.contract.signing import Purpose
from kasbah.common import rls
from kasbah.residency.services import control_keys
from kasbah.serving import tasks
from kasbah.serving.dispatch.capacity import CLOCK_SKEW
from kasbah.serving.housekeeping import entries, reports, troubles
from kasbah.serving.models import Worker
from tests.serving.stand_in import StandIn
from tests.serving.test_housekeeping import events
from tests.serving.world import World, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def row(standing: StandIn) -> Worker:
    with rls.platform_scope():
        return Worker.objects.select_related("site").get(pk=standing.worker)


def found(standing: StandIn) -> dict[str, str]:
    return {each["code"]: each["text"] for each in row(standing).troubles}


def listed(capsys: pytest.CaptureFixture[str], command: str) -> list[dict[str, Any]]:
    call_command(command, "list", "--json")
    listing: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return listing


def notices(standing: StandIn) -> list[str]:
    token = standing.store.get(keys.assignment(standing.worker)).decode()
    return checked(control_keys().verifier, Purpose.ASSIGNMENT, token, Assignment).notices


@pytest.mark.parametrize("offset", [300, -240, 20])
def test_clock_that_is_off_is_shown_told_and_logged_once(
    world: World, standing: StandIn, offset: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{'ahead of' if offset > 0 else 'behind'} the control plane's"
    for _ in range(4):
        standing.alive(time=now() + offset, refused=3)
        tasks.collect_reports()
    assert words in found(standing)["clock"]
    assert abs(row(standing).clock_offset - offset) <= 2
    assert (row(standing).refused == 3) is (abs(offset) < CLOCK_SKEW)  # beyond, nothing of it is believed
    (said,) = notices(standing)
    assert words in said
    told = [each.getMessage() for each in caplog.records if words in each.getMessage()]
    assert len(told) == 1
    assert row(standing).name in told[0]
    assert "site paris" in told[0]
    (worker,) = listed(capsys, "workers")
    assert f"{abs(row(standing).clock_offset)} s {words}" in str(worker["trouble"])
    assert words in str(worker["trouble"])
    assert worker["clock_offset_s"] == row(standing).clock_offset
    site = listed(capsys, "sites")[0]
    assert words in str(site["trouble"])
    assert row(standing).name in str(site["trouble"])
    standing.alive()
    tasks.collect_reports()
    assert (found(standing), row(standing).clock_offset, notices(standing)) == ({}, 0, [])


def test_clock_within_the_tolerance_is_no_trouble(world: World, standing: StandIn) -> None:
    standing.alive(time=now() - 3)
    tasks.collect_reports()
    assert (found(standing), row(standing).clock_offset) == ({}, 0)


def two_processes(standing: StandIn, rounds: int = 3) -> None:
    """Reports of two processes of one identity, as they come by the stream; the store shows the second one alone."""
    for number in range(rounds):
        for start in ("first", "second"):
            token = standing.report(start=start, time=now() - 2 * rounds + 2 * number + (start == "second"))
            standing.store.xadd(keys.REPORTS, {keys.REPORT: token})
        standing.alive(start="second", time=now() - 2 * rounds + 2 * number + 1)
        tasks.collect_reports()


def test_one_identity_running_twice_raises_an_alarm(
    world: World, standing: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    two_processes(standing)
    assert "two processes" in found(standing)["duplicate"]
    assert len(events("worker.duplicated")) == 1
    assert "two processes" in str(listed(capsys, "workers")[0]["trouble"])
    assert "two processes" in " ".join(notices(standing))


def test_without_looking_at_the_stream_two_processes_hide(
    world: World, standing: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: by the liveness key alone a process whose turn it never is at the look is not seen."""
    monkeypatch.setattr(entries.Entries, "_look_at_report", lambda *_: None)
    two_processes(standing)
    assert found(standing) == {}


def test_worker_that_is_started_again_is_no_duplicate(world: World, standing: StandIn) -> None:
    old = standing.report(start="a")
    for start in ("a", "b", "c"):
        standing.alive(start=start)
        tasks.collect_reports()
    standing.store.xadd(keys.REPORTS, {keys.REPORT: old})  # what a broker gives again
    tasks.collect_reports()
    assert (found(standing), [name for name, _ in row(standing).starts]) == ({}, ["c", "b", "a"])


def test_worker_at_the_broker_of_another_site_is_shown(
    world: World, standing: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    other = stand_in(world, 1)
    standing.store.delete(keys.worker(standing.worker))
    for _ in range(3):
        other.store.xadd(keys.REPORTS, {keys.REPORT: standing.report()})
        tasks.collect_reports()
    assert "broker of site tokyo" in found(standing)["stray"]
    assert found(other) == {}
    assert sum("broker of site tokyo" in each.getMessage() for each in caplog.records) == 1


def test_refused_weights_and_the_workers_own_words_are_shown(
    world: World, standing: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Served(deployment="d", model_digest="", state="failed", detail="config.json differs from the manifest")
    standing.alive(served=[failed], trouble="the broker is away (ConnectionRefusedError)")
    tasks.collect_reports()
    assert "config.json differs" in found(standing)["engine"]
    assert "broker is away" in found(standing)["worker"]
    for command in ("workers", "sites"):
        assert "config.json differs" in str(listed(capsys, command)[0]["trouble"])


def test_momentary_trouble_ends_after_a_minute(world: World, standing: StandIn) -> None:
    worker = row(standing)
    troubles.keep(worker, troubles.of_refusal("wrong_model"))
    standing.alive()
    tasks.collect_reports()
    assert set(found(standing)) == {"refuses"}
    with rls.platform_scope():
        worker.troubles[0]["seen"] -= troubles.STAYS + 1
        worker.save(update_fields=["troubles"])
    tasks.collect_reports()
    assert found(standing) == {}


def test_report_refused_by_the_control_plane_reaches_the_worker(world: World, standing: StandIn) -> None:
    standing.alive(stale=-1)
    reports.collect()
    assert "$.stale" in notices(standing)[0]
