"""What is kept near is loaded once, dropped at a change, and not used while no change could be heard."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async

from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.common.errors import Unavailable
from kasbah.gateway import cache
from kasbah.gateway.cache import Kept
from tests import factories

A, B = UUID(int=1), UUID(int=2)


class Source:
    """Counts loads; `gate` holds them back."""

    def __init__(self) -> None:
        self.loads = 0
        self.trusted = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.kept: Kept[int] = Kept(lambda: self.trusted)

    async def load(self) -> int:
        self.loads += 1
        number = self.loads
        await self.gate.wait()
        return number

    async def get(self, ident: UUID = A) -> int:
        return await self.kept.get(ident, self.load)


async def test_a_value_is_loaded_once_even_when_many_ask() -> None:
    source = Source()
    assert await asyncio.gather(*(source.get() for _ in range(10))) == [1] * 10
    assert await source.get() == 1


async def test_values_are_apart() -> None:
    source = Source()
    assert (await source.get(A), await source.get(B)) == (1, 2)
    source.kept.drop(A)
    assert (await source.get(A), await source.get(B)) == (3, 2)


@pytest.mark.parametrize("everything", [True, False])
async def test_a_change_during_the_load_is_not_missed(everything: bool) -> None:
    source = Source()
    source.gate.clear()
    early = asyncio.create_task(source.get())
    await asyncio.sleep(0)
    if everything:
        source.kept.drop_all()
    else:
        source.kept.drop(A)
    late = asyncio.create_task(source.get())
    await asyncio.sleep(0)
    source.gate.set()
    assert (await early, await late) == (1, 2)
    assert await source.get() == 2


async def test_while_nothing_can_be_heard_every_request_asks() -> None:
    source = Source()
    assert await source.get() == 1
    source.trusted = False
    assert [await source.get() for _ in range(3)] == [2, 3, 4]
    source.trusted = True
    assert await source.get() == 1, "what was kept before; whoever listens again drops it"


async def test_a_failure_is_not_kept() -> None:
    source = Source()

    async def fail() -> int:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await source.kept.get(A, fail)
    assert await source.get() == 1


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ENTRIES", 2)
    source = Source()
    for number in range(5):
        await source.get(UUID(int=number))
    assert await source.get(UUID(int=4)) == 5
    assert await source.get(UUID(int=0)) == 6


@pytest.mark.django_db(transaction=True)
async def test_a_new_baseline_holds_within_a_second(database: Database, app_url: str) -> None:
    """Announced by the database, it drops what is kept of every tenant. Control: unannounced, the old one stays."""
    everything = {"id": "all", "effect": "allow", "data_classes": ["public"], "models": ["*"], "sites": ["*"]}
    tenant = await sync_to_async(factories.tenant)()
    await sync_to_async(factories.active_policy)(tenant, {"version": 1, "rules": [everything]})
    listener = ChangeListener(app_url)
    near = cache.TenantCache(database, listener)
    await listener.start()
    try:
        assert await baseline_version(near, tenant.id) == 0
        await sync_to_async(factories.active_policy)(None, {"version": 1, "rules": []})
        async with asyncio.timeout(1):
            while await baseline_version(near, tenant.id) != 1:  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # one change is announced by several rows
        assert await baseline_version(near, tenant.id) == 1  # and is kept now
        listener._callbacks.clear()
        await sync_to_async(factories.active_policy)(None, {"version": 1, "rules": [everything]})
        await asyncio.sleep(0.5)
        assert await baseline_version(near, tenant.id) == 1
    finally:
        await listener.close()


async def baseline_version(near: cache.TenantCache, tenant_id: UUID) -> int:
    policy = (await near.facts(tenant_id)).policy
    assert policy is not None
    return policy.baseline.version if policy.baseline else 0
