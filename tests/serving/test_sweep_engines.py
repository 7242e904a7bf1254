"""The sweeper does not send a request that ends engines to every one of them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from django.utils import timezone

from inference_worker.contract import scripts
from kasbah.common import rls
from kasbah.serving.housekeeping.sweep import sweep
from kasbah.serving.models import Job
from kasbah.serving.services import submit_background
from tests.serving.stand_in import StandIn
from tests.serving.world import World, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def fail_once(standing: StandIn, job: UUID) -> Job:
    """An engine ends over the job, and its row's lease passes."""
    message = standing.take()
    assert message is not None
    taken = standing.open(message)
    assert standing.claim(taken) == scripts.OK
    standing.fail(taken, retry=True)
    with rls.platform_scope():
        Job.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        return Job.objects.get(pk=job)


def test_a_request_that_ends_engines_twice_is_not_sent_to_a_third(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = stand_in(world)
    (job,) = submit_background([world.request("hello", stream=False)])
    fail_once(standing, job)
    assert sweep()["resent"] == 1
    fail_once(standing, job)
    with monkeypatch.context() as patch:  # the control: without the bound it is sent again
        patch.setattr("kasbah.serving.housekeeping.sweep.ENGINE_FAILURES", frozenset())
        assert sweep()["resent"] == 1
    fail_once(standing, job)
    assert sweep()["settled"] == 1
    with rls.platform_scope():
        row = Job.objects.get(pk=job)
    assert (row.state, row.error_code, row.attempt) == ("failed", "engine_lost", 3)
    standing.close()
