"""Two sites with a Valkey each, and a control plane."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.local.valkey import Valkey, valkey

if TYPE_CHECKING:  # models cannot be imported before Django is set up, which is after this file
    from tests.serving.stand_in import StandIn
    from tests.serving.world import Web, World


@pytest.fixture(scope="session")
def site_servers() -> Iterator[list[Valkey]]:
    """The brokers of two sites."""
    with (
        tempfile.TemporaryDirectory(prefix="ksb-") as home,
        valkey(Path(home), "paris", aof=False) as first,
        valkey(Path(home), "tokyo", aof=False) as second,
    ):
        yield [first, second]


@pytest.fixture
def stores(site_servers: list[Valkey]) -> list[Valkey]:
    """The same, emptied."""
    import redis

    for server in site_servers:
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
            client.script_flush()
    return site_servers


@pytest.fixture
def world(transactional_db: None, stores: list[Valkey], tmp_path: Path) -> World:
    """One tenant, two sites, one deployment at both."""
    from tests.serving.world import make_world

    (tmp_path / "models").mkdir()
    return make_world(stores, tmp_path / "models")


@pytest.fixture
async def web(database: Any, world: World, app_url: str) -> AsyncIterator[Web]:
    """A web process."""
    from tests.serving.world import open_web

    async with open_web(database, app_url) as opened:
        yield opened


@pytest.fixture
def standing(world: World) -> Iterator[StandIn]:
    """A worker of the first site."""
    from tests.serving.world import stand_in

    made = stand_in(world)
    yield made
    made.close()
