"""A job's way through the real worker and back, the engine a fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference_worker.harness import RunningWorker, start_worker
from tests.serving.world import Housekeeping, Web, World, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def worker(world: World, tmp_path: Path) -> Iterator[RunningWorker]:
    """A worker of the first site that serves the deployment."""
    with (
        Housekeeping(),
        start_worker(world.stores[0].url, tmp_path / "w1", token=world.token(), models=world.models) as running,
    ):
        running.await_ready()
        yield running


async def test_stream(web: Web, world: World, worker: RunningWorker) -> None:
    await web.ready(world)
    answer = await web.ask(world.request("[[tokens=5]] hello"))
    assert answer.text == " t0 t1 t2 t3 t4"
    row = await world.job(answer.running.job.id)
    assert (row.state, row.attempt, row.completion_tokens) == ("succeeded", 1, 5)
    assert str(row.worker_id) == worker.id
    assert row.receipt
    assert row.payload is None
    assert not answer.stale
    whole = await web.ask(world.request("[[tokens=3]] hello", stream=False))
    assert whole.text == " t0 t1 t2"


async def test_cancel(web: Web, world: World, worker: RunningWorker) -> None:
    await web.ready(world)
    running = await web.send(world.request("[[tokens=500 delay=0.02]] hello", max_tokens=500))
    await until(lambda: running.relayed)
    last = await running.cancel()
    assert last is not None
    assert last.usage.completion_tokens < 500
    running.close()
