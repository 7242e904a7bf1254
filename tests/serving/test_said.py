"""What was answered to a client whose web process died is kept too, from the frames in the site's store."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inference_worker.contract import keys
from inference_worker.contract.frames import Data, Role
from kasbah.audit.content.opening import open_record
from kasbah.audit.models import Content
from kasbah.common import rls
from kasbah.serving.housekeeping.sweep import sweep
from kasbah.serving.models import Job
from kasbah.serving.services import submit_background
from tests import factories
from tests.serving.stand_in import StandIn
from tests.serving.world import World

pytestmark = pytest.mark.django_db(transaction=True)


def chunk(text: str) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()


def orphan(world: World, standing: StandIn, *, stream: bool = True) -> tuple[Job, Any]:
    """A job of a web process that is gone, taken by a worker that has said two words."""
    (ident,) = submit_background([world.request("hello")])
    with rls.platform_scope():
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1), owner="web-gone", stream=stream)
        job = Job.objects.get(pk=ident)
    message = standing.take()
    assert message is not None
    taken = standing.open(message)
    standing.claim(taken, 60_000)
    standing.append(taken, Role(chunk("")), Data(chunk("one ")))
    standing.append(taken, Data(chunk("two")))
    return job, taken


def swept(world: World) -> int:
    with rls.platform_scope():
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    return sweep()["settled"]


def answers(world: World) -> list[Content]:
    with rls.platform_scope():
        return list(Content.objects.filter(part="answer").select_related("key"))


def outcome(world: World) -> dict[str, Any]:
    (event,) = [e for e in factories.events_of(world.home.tenant.id) if e["type"] == "inference.outcome"]
    return event


def test_a_stream_is_kept_as_its_prompt_was(world: World, standing: StandIn) -> None:
    job, taken = orphan(world, standing)
    factories.content(world.home.project, request_id=job.request_id, data_class="internal", ceiling=7)
    standing.append(taken, Data(chunk("!")), standing.done(taken, 3))
    assert swept(world) == 1
    (row,) = answers(world)
    with rls.platform_scope():
        shown = open_record(row)
    assert shown.content == '{"choices":[{"content":"one two!","index":0}]}'
    assert (row.level, row.form, row.data_class, row.ceiling_days) == ("sealed", "stream", "internal", 7)
    assert outcome(world)["commitments"] == {"answer": shown.commitment}
    assert outcome(world)["details"]["content"] == "sealed"


def test_also_where_the_worker_died_as_well(world: World, standing: StandIn) -> None:
    job, _ = orphan(world, standing)
    factories.content(world.home.project, request_id=job.request_id, level="commitment")
    standing.store.delete(keys.job(str(job.id)))
    assert swept(world) == 1
    (row,) = answers(world)
    with rls.platform_scope():
        assert open_record(row).content is None
    assert row.opening is not None


def test_where_nothing_was_kept_nothing_is(world: World, standing: StandIn) -> None:
    _, taken = orphan(world, standing)
    standing.append(taken, standing.done(taken, 2))
    assert swept(world) == 1
    assert answers(world) == []
    assert "commitments" not in outcome(world)


def test_of_an_answer_in_one_piece_nothing_went_out(world: World, standing: StandIn) -> None:
    job, taken = orphan(world, standing, stream=False)
    factories.content(world.home.project, request_id=job.request_id)
    standing.append(taken, standing.done(taken, 2))
    assert swept(world) == 1
    assert answers(world) == []
