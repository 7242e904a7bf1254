"""What one worker or site says or does stops the look at no other, and nothing is read twice."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DataError

from inference_worker.contract import keys, messages
from inference_worker.contract.messages import Served, signed
from inference_worker.contract.signing import Purpose
from kasbah.common import rls
from kasbah.serving import tasks
from kasbah.serving.dispatch import capacity
from kasbah.serving.housekeeping import reports
from kasbah.serving.models import Worker
from tests.serving.stand_in import StandIn
from tests.serving.world import World, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def row(standing: StandIn) -> Worker:
    with rls.platform_scope():
        return Worker.objects.get(pk=standing.worker)


def served(**changes: Any) -> list[Served]:
    return [Served(**({"deployment": "d", "model_digest": "", "state": "ready"} | changes))]


@pytest.mark.parametrize(
    "changes",
    [
        {"stale": -5},
        {"engine": "vllm\x00"},
        {"refused": 2**60 // 2**8},
        {"served": served(capacity=-1)},
        {"served": served(detail="\x1b[2J")},
        {"trusts": ["k"] * 50},
    ],
    ids=["negative", "nul", "large", "capacity", "escape", "many"],
)
def test_report_out_of_bounds_stops_no_other_worker_or_site(world: World, changes: dict[str, Any]) -> None:
    bad, good, elsewhere = stand_in(world), stand_in(world), stand_in(world, 1)
    bad.alive(**changes)
    good.alive(refused=7)
    elsewhere.alive(refused=8)
    heard = reports.collect()
    assert heard["reports"] == 2
    assert (row(good).refused, row(elsewhere).refused) == (7, 8)
    assert row(bad).hardware == {}  # nothing of it was written
    (trouble,) = row(bad).troubles
    assert trouble["code"] == "report"
    assert next(iter(changes)) in trouble["text"]
    bad.alive()
    tasks.collect_reports()
    assert row(bad).troubles == []


class _Nothing:
    """Isolates nothing."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def test_without_bounds_one_report_ends_every_tick(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: believed as it was, the same report is an error of the database; only the isolation holds then."""
    bad, good = stand_in(world), stand_in(world)
    bad.alive(engine="vllm\x00")
    good.alive(refused=7)

    def believed(worker: Any, token: str) -> messages.Report:
        good_report = good.report(refused=7) if worker.id.hex == good.worker.replace("-", "") else None
        sound = capacity.checked(
            capacity.Verifier.from_raw(*worker.valid_keys()),
            Purpose.REPORT,
            good_report or bad.report(),
            messages.Report,
        )
        return sound if good_report else messages.msgspec.structs.replace(sound, engine="vllm\x00")

    monkeypatch.setattr(reports, "check_report", believed)
    assert reports.collect()["reports"] == 1
    assert row(good).refused == 7
    monkeypatch.setattr(reports.isolation, "apart", lambda *_: _Nothing())
    with pytest.raises(DataError, match="NUL"):
        reports.collect()


def test_fault_at_one_site_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = stand_in(world), stand_in(world, 1)
    there.alive(refused=5)
    real = reports.keyturn.turn_site_keys

    def failing(site: Any, workers: Any) -> None:
        if site.slug == "paris":
            raise RuntimeError("a defect")
        real(site, workers)

    monkeypatch.setattr(reports.keyturn, "turn_site_keys", failing)
    reports.collect()
    assert row(there).refused == 5
    assert here.store.exists(keys.assignment(here.worker))  # the step after the one that failed


@pytest.mark.parametrize("key", ["liveness", "assignment", "reports"])
def test_key_of_another_type_makes_no_site_unreachable(world: World, standing: StandIn, key: str) -> None:
    name = {
        "liveness": keys.worker(standing.worker),
        "assignment": keys.assignment(standing.worker),
        "reports": keys.REPORTS,
    }[key]
    other = stand_in(world)
    other.alive(refused=9)
    standing.store.delete(name)
    standing.store.hset(name, "a", "b")
    assert reports.collect()["sites away"] == 0
    assert row(other).refused == 9
    if key != "liveness":  # mended: workers can read and write there again
        assert standing.store.type(name) != b"hash"


def test_each_entry_is_dealt_with_once_whatever_the_others_hold(world: World, standing: StandIn) -> None:
    hostile: list[dict[Any, Any]] = [
        {"enrol": b"\xc1"},
        {"refusal": b"\xff\xfe"},
        {"refusal": standing.signer.sign(Purpose.REPORT, {"job": "x"})},
        {"report": "a.b.c"},
        {"report": signed(standing.signer, Purpose.REPORT, served()[0])},
        {"key_change": "a b"},
        {"key_change": b"\x00" * 10},
        {"report": "x" * 300_000},
        {b"\xff\x1b[31m": b"1"},
        {"a": "1", "b": "2"},
    ]
    for fields in hostile:
        standing.store.xadd(keys.REPORTS, fields)
    standing.alive(refused=4)
    heard = reports.collect()
    assert heard["not believed"] == len(hostile) + 1
    assert standing.store.xlen(keys.REPORTS) == 0
    assert row(standing).refused == 4
    assert reports.collect()["not believed"] == 0  # nothing is read again


def test_site_that_is_away_is_asked_less_often_and_logged_once(
    world: World, standing: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = reports._look_at
    monkeypatch.setattr(reports, "_look_at", lambda site, heard: (asked.append(site.slug), real(site, heard)))
    world.stores[0].kill()
    try:
        for _ in range(12):
            tasks.collect_reports()
        assert asked.count("paris") < 8
        assert asked.count("tokyo") == 12
        assert [each.getMessage() for each in caplog.records if "paris" in each.getMessage()] == [
            "Site paris is unreachable (broker ok, store ConnectionError)"
        ]
    finally:
        world.stores[0].start()
        reports.backoff.answered(world.sites[0].id)
    tasks.collect_reports()
    with rls.platform_scope():
        world.sites[0].refresh_from_db()
        assert world.sites[0].health.store_state == "ok"
