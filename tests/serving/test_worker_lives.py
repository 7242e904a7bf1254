"""A real worker's life, its engine a fake: it waits for a person, is cordoned, drained, resumed and revoked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.messages import Report
from inference_worker.contract.signing import fingerprint
from kasbah.common import rls
from kasbah.serving import services
from kasbah.serving.models import Worker
from tests import factories
from tests.inference_worker.harness import RunningWorker, start_worker, wait_for
from tests.serving.world import Housekeeping, Web, World, apart, open_web, until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
SYSTEM = factories.SYSTEM


@pytest.fixture
def worker(world: World, tmp_path: Path) -> Iterator[RunningWorker]:
    """Started with an ordinary token; nobody has approved it."""
    token = services.create_enrolment_token(SYSTEM, world.sites[0]).text
    with (
        Housekeeping(),
        start_worker(world.stores[0].url, tmp_path / "w1", token=token, models=world.models) as running,
    ):
        yield running


def row() -> Worker:
    with rls.platform_scope():
        return Worker.objects.get()


def state_of(worker: RunningWorker) -> str:
    report: Report | None = worker.report()
    return report.state if report else ""


def approve(worker: RunningWorker) -> None:
    """As a person does: wait for the line in its log, compare, approve."""
    wait_for(lambda: "waits for approval" in worker.log, 20)
    shown = re.search(r"fingerprint ((?:[0-9a-f]{4}:){7}[0-9a-f]{4}), .* workers approve (\S+)", worker.log)
    assert shown is not None
    found = row()
    assert (shown[1], shown[2]) == (fingerprint(bytes(found.public_key)), str(found.id))
    services.approve_worker(SYSTEM, found, expected=shown[1])


def test_it_waits_and_goes_on_by_itself(world: World, worker: RunningWorker) -> None:
    wait_for(lambda: "waits for approval" in worker.log, 20)
    assert not (worker.state_dir / "identity.json").exists()
    assert row().state == "pending"
    approve(worker)
    worker.await_ready()
    assert "approved" in worker.log
    assert worker.log.count("waits for approval") == 1
    assert worker.stop() == 0


def test_a_rejected_one_ends_and_says_why(world: World, worker: RunningWorker) -> None:
    wait_for(lambda: "waits for approval" in worker.log, 20)
    services.reject_worker(SYSTEM, row())
    assert worker.process.wait(20) == 2
    assert "rejected or revoked" in worker.log.splitlines()[-1]
    assert not (worker.state_dir / "identity.json").exists()


def test_one_that_was_started_again_while_it_waited(world: World, tmp_path: Path) -> None:
    """It asks with the same token, and is who it was."""
    token = services.create_enrolment_token(SYSTEM, world.sites[0]).text
    url, folder = world.stores[0].url, tmp_path / "w1"
    with Housekeeping():
        with start_worker(url, folder, token=token, models=world.models) as worker:
            wait_for(lambda: "waits for approval" in worker.log, 20)
        services.approve_worker(SYSTEM, row())
        with start_worker(url, folder, token=token, models=world.models) as again:
            again.await_ready()
            assert again.id == str(row().id)


async def test_cordoned_drained_resumed_revoked(
    database: Any, app_url: str, world: World, worker: RunningWorker
) -> None:
    await apart(approve, worker)
    await asyncio.to_thread(worker.await_ready)
    async with open_web(database, app_url) as web:
        await web.ready(world)
        await _finishes_what_runs(web, world, worker)
        await apart(lambda: services.resume_worker(SYSTEM, row()))
        await asyncio.to_thread(worker.await_ready)
        await web.ready(world)
        assert (await web.ask(world.request("[[tokens=2]]"))).text == " t0 t1"
        await apart(lambda: services.revoke_worker(SYSTEM, row()))
        await until(lambda: not web.dispatcher.capacity.by_key, 1.0)
        assert await asyncio.to_thread(worker.process.wait, 20) == 3


async def _finishes_what_runs(web: Web, world: World, worker: RunningWorker) -> None:
    """Cordoned: its engine stays. Drained: it stops, but not before the answer is complete."""
    running = await web.send(world.request("[[tokens=120 delay=0.05]]", max_tokens=120))
    await until(lambda: running.relayed, 10)
    await apart(lambda: services.cordon_worker(SYSTEM, row()))
    await asyncio.to_thread(wait_for, lambda: state_of(worker) == "cordoned", 5)
    engines = worker.descendants()
    assert list(worker.states().values()) == ["ready"]
    await apart(lambda: services.drain_worker(SYSTEM, row()))
    await asyncio.to_thread(wait_for, lambda: state_of(worker) == "drained", 5)
    assert list(worker.states().values()) == ["ready"], "its engine stays while something runs"
    answer = await web.collect(running)
    assert answer.text.count(" t") == 120
    await asyncio.to_thread(wait_for, lambda: worker.states() == {}, 15)
    assert not set(engines) & set(worker.descendants())
