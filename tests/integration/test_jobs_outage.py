"""A site's broker that is away for half a minute (the design's table, row 4)."""

from __future__ import annotations

import asyncio
import collections
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.frames import Done
from infra.local.valkey import Valkey, valkey
from kasbah.common.errors import Unavailable
from kasbah.serving.services import submit_background
from tests.inference_worker.harness import RunningWorker, start_worker
from tests.serving.world import Housekeeping, Web, World, apart, make_world, open_web, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(200)]

AWAY = 30.0
ACCEPTED, BACKGROUND = 200, 100


@pytest.fixture
def store() -> Iterator[Valkey]:
    """A broker of its own: it is killed."""
    with tempfile.TemporaryDirectory(prefix="ksb-") as home, valkey(Path(home), "site") as server:
        yield server


@pytest.fixture
def world(transactional_db: None, store: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One site, housekeeping running."""
    monkeypatch.setenv("KASBAH_LEASE_MS", "3000")
    (tmp_path / "models").mkdir()
    made = make_world([store], tmp_path / "models", slugs=["paris"])
    with Housekeeping(every=0.5):
        yield made


@pytest.fixture
def worker(world: World, tmp_path: Path) -> Iterator[RunningWorker]:
    """The site's worker."""
    with start_worker(world.stores[0].url, tmp_path / "w", token=world.token(), models=world.models) as running:
        running.await_ready()
        yield running


@pytest.mark.usefixtures("worker")
async def test_a_broker_that_is_away(database: Any, world: World, store: Valkey, app_url: str) -> None:
    async with open_web(database, app_url) as web:
        await web.ready(world)
        running = [
            await web.send(world.request(f"[[tokens=2 delay=0.5 tag=n{number}-]] x", stream=False))
            for number in range(ACCEPTED)
        ]
        answers = [asyncio.create_task(web.collect(item)) for item in running]
        background = [world.request("[[tokens=2 delay=0.5]] x", stream=False) for _ in range(BACKGROUND)]
        await apart(submit_background, background)
        store.kill()
        refused = await refusals(web, world)
        store.start()
        back = time.monotonic()
        done = await asyncio.gather(*answers)
        await until_settled(world, 60)
        seconds = time.monotonic() - back
        await until(lambda: bool(web.dispatcher.capacity.ready(world.deployment.id, [world.sites[0].id])))
        again = await web.ask(world.request("[[tokens=1]] x", stream=False))

    assert all(isinstance(answer.last, Done) and not answer.stale for answer in done)
    assert [answer.text for answer in done] == [f" n{number}-0 n{number}-1" for number in range(ACCEPTED)]
    states = collections.Counter((job.owner, job.state) for job in await apart(world.jobs))
    assert states["background", "succeeded"] == BACKGROUND
    assert again.text == " t0"
    assert len(refused) >= AWAY / 3
    assert max(refused) < 2.0
    print(
        f"\n{len(refused)} new ones refused within {max(refused):.2f} s; {ACCEPTED + BACKGROUND} accepted ones "
        f"finished {seconds:.1f} s after the broker came back"
    )


async def refusals(web: Web, world: World) -> list[float]:
    """Ask again and again while the broker is away; how long each refusal took."""
    taken = []
    ends = time.monotonic() + AWAY
    while time.monotonic() < ends:
        begun = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            await web.ask(world.request("[[tokens=1]] x"))
        taken.append(time.monotonic() - begun)
        assert raised.value.retry_after
        await asyncio.sleep(1)
    return taken


async def until_settled(world: World, timeout: float) -> None:
    """Until every background job has ended."""
    async with asyncio.timeout(timeout):
        while await apart(_unsettled, world):  # noqa: ASYNC110 - housekeeping settles them, elsewhere
            await asyncio.sleep(0.3)


def _unsettled(world: World) -> bool:
    return any(job.state in {"queued", "running"} for job in world.jobs() if job.owner == "background")
