"""An answer without a record is noticed: what workers count is compared with the outcomes in the log."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from kasbah.audit.log import sequencer
from kasbah.common import rls
from kasbah.serving import tasks
from kasbah.serving.housekeeping.reconcile import reconcile
from kasbah.serving.housekeeping.sweep import sweep
from kasbah.serving.models import Job
from kasbah.serving.services import submit_background
from tests import factories
from tests.audit.logs import unguarded
from tests.serving.stand_in import StandIn
from tests.serving.world import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]
HOUR = timedelta(hours=1)


def told() -> list[dict[str, Any]]:
    return [event for event in factories.events_of(None) if event["type"] == "log.reconciled"]


def say(standing: StandIn, start: str, answered: int) -> None:
    standing.alive(start=start, answered=answered)
    tasks.collect_reports()


def answer(world: World, standing: StandIn, count: int) -> None:
    """Jobs that are answered and settled."""
    submit_background([world.request("hello", stream=False) for _ in range(count)])
    for _ in range(count):
        message = standing.take()
        assert message is not None
        taken = standing.open(message)
        standing.claim(taken, 60_000)
        standing.answer(taken)
    due()
    assert sweep()["settled"] == count


def due() -> None:
    with rls.platform_scope():
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))


@pytest.fixture
def begun(world: World, standing: StandIn) -> datetime:
    """Compared for the first time; then three jobs are answered and on record."""
    say(standing, "a", 10)
    now = timezone.now()
    assert reconcile(now) == 0
    assert told() == []
    answer(world, standing, 3)
    return now


@pytest.mark.parametrize("altered", [b"\xff", b"[]", b"{", b'{"outcome":1}'])
def test_an_altered_outcome_is_no_record_and_ends_no_comparison(
    standing: StandIn, begun: datetime, superuser: Any, altered: bytes
) -> None:
    say(standing, "a", 13)
    with unguarded(superuser) as execute:
        execute(
            "UPDATE audit_intake SET event = %s WHERE id = (SELECT max(id::text)::uuid FROM audit_intake"
            " WHERE type = 'inference.outcome')",
            [altered],
        )
    reconcile(begun + HOUR)
    assert reconcile(begun + 2 * HOUR) == 1
    assert told()[-1]["details"]["missing"] == 1
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = %s WHERE type = 'log.reconciled'", [altered])
    call_command("auditlog", "status", stdout=io.StringIO())


def test_what_is_on_record_agrees(standing: StandIn, begun: datetime) -> None:
    say(standing, "a", 13)
    assert [reconcile(begun + hours * HOUR) for hours in (1, 2, 3)] == [0, 0, 0]
    last = told()[-1]
    assert (last["outcome"], last["details"]["answered"], last["details"]["recorded"]) == ("success", 3, 3)


def test_an_answer_without_a_record_raises_the_alarm(
    standing: StandIn, begun: datetime, caplog: pytest.LogCaptureFixture, settings: Any, tmp_path: Any
) -> None:
    say(standing, "a", 14)  # one more than anybody recorded
    assert reconcile(begun + HOUR) == 0  # it may still be under way
    assert reconcile(begun + 2 * HOUR) == 1
    last = told()[-1]
    assert (last["outcome"], last["reason"], last["details"]["missing"]) == ("failure", "answers_without_record", 1)
    assert last["details"]["differing"] == [f"{standing.worker} 1"]
    assert "CRITICAL" in caplog.text
    settings.AUDIT_DIR = str(tmp_path)
    sequencer.sequence()
    out = io.StringIO()
    call_command("auditlog", "status", "--json", stdout=out)
    shown = {row["origin"]: row["answers_without_record"] for row in json.loads(out.getvalue())}
    assert shown["test/audit/system"] == 1


def test_a_worker_that_was_started_anew_counts_anew(standing: StandIn, begun: datetime) -> None:
    say(standing, "b", 0)
    assert [reconcile(begun + hours * HOUR) for hours in (1, 2)] == [0, 0]
    say(standing, "b", 2)
    assert [reconcile(begun + hours * HOUR) for hours in (3, 4)] == [0, 2]


def test_asked_too_soon_it_waits(standing: StandIn, begun: datetime) -> None:
    say(standing, "a", 14)
    assert [reconcile(begun + timedelta(minutes=at)) for at in (1, 10, 19)] == [0, 0, 0]


def test_who_says_no_start_is_not_compared(world: World, standing: StandIn) -> None:
    standing.alive()
    tasks.collect_reports()
    assert reconcile() == 0
    assert told() == []
