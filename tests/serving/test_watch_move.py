"""Jobs of a site that is away do not wait for it where another compliant site serves them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from inference_worker.contract.frames import Done, Failed
from kasbah.serving.dispatch import watch
from kasbah.serving.services import Timings
from kasbah.serving.timings import timings
from tests.serving.stand_in import StandIn
from tests.serving.world import Answer, Web, World, apart, open_web, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

QUICK = Timings(lease_ms=600, look=0.1, store_patience=4.0)
PROXY_WAITS = 60.0  # seconds for the first byte of an answer, as shipped


async def ask_and_lose_the_store(web: Web, world: World, other: StandIn) -> Answer:
    """A request goes to the first site, whose store dies before anybody has taken it."""
    running = await web.send(world.request(stream=False, sites=(0, 1)))
    assert running.site == world.sites[0].id
    world.stores[0].kill()
    try:
        collected = asyncio.create_task(web.collect(running))
        while not collected.done():
            if (message := other.take()) is not None:
                taken = other.open(message)
                other.claim(taken)
                other.answer(taken)
            await asyncio.sleep(0.02)
        return collected.result()
    finally:
        world.stores[0].start()


@pytest.fixture
def world_with_worker(world: World, standing: StandIn) -> tuple[World, StandIn]:
    """The control plane, and a worker of its first site."""
    return world, standing


@pytest.mark.parametrize("moves", [True, False])
async def test_job_moves_within_seconds(
    database: Any, app_url: str, world_with_worker: tuple[World, StandIn], moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the control: without the move it waits out the patience with the site, and fails."""
    world, standing = world_with_worker
    other = await apart(stand_in, world, 1)
    standing.alive(capacity=100)
    if not moves:
        monkeypatch.setattr(watch, "_can_move", lambda *_: False)
    async with open_web(database, app_url, QUICK) as web:
        await web.ready(world, sites=(0, 1))
        began = asyncio.get_running_loop().time()
        answer = await ask_and_lose_the_store(web, world, other)
        took = asyncio.get_running_loop().time() - began
    if moves:
        assert isinstance(answer.last, Done)
        assert answer.running.site == world.sites[1].id
        assert took < QUICK.store_patience
    else:
        assert isinstance(answer.last, Failed)
        assert answer.last.code == "site_unreachable"
    other.close()


def test_every_patience_is_shorter_than_a_proxys() -> None:
    assert timings().store_patience + timings().look < PROXY_WAITS
