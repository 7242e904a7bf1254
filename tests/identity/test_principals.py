"""The cache of principals: fast, never stale for a second, never trusted while changes cannot be heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from kasbah.common import rls
from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.common.errors import Unauthenticated
from kasbah.identity import services
from kasbah.identity.models import ApiKey
from kasbah.identity.services import PrincipalCache, keys, principals
from tests import factories
from tests.factories import SYSTEM

pytestmark = pytest.mark.django_db(transaction=True)
household = sync_to_async(factories.household)


class Counted:
    """Counts the questions to the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, real = 0, principals._find

        async def find(database: Database, digest: bytes) -> Any:
            self.count += 1
            return await real(database, digest)

        monkeypatch.setattr(principals, "_find", find)


@pytest.fixture
async def cache(database: Database, app_url: str) -> AsyncIterator[PrincipalCache]:
    listener = ChangeListener(app_url)
    cache = PrincipalCache(database, listener)
    await listener.start()
    yield cache
    await cache.close()
    await listener.close()


async def refused_within(cache: PrincipalCache, text: str, seconds: float) -> float:
    """How long the key went on being accepted."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        try:
            await cache.get(text)
        except Unauthenticated:
            return time.monotonic() - start
        await asyncio.sleep(0.002)
    raise AssertionError("the key is still accepted")


async def test_one_question_for_many_who_ask(cache: PrincipalCache, monkeypatch: pytest.MonkeyPatch) -> None:
    home, counted = await household(), Counted(monkeypatch)
    await asyncio.sleep(0.1)  # the announcements of the household's own rows
    found = await asyncio.gather(*(cache.get(home.key_text) for _ in range(50)))
    assert set(found) == {home.principal}
    await asyncio.gather(*(cache.get(home.key_text) for _ in range(50)))
    assert counted.count == 1


@pytest.mark.parametrize("change", ["revoke", "switch off", "expire"])
async def test_what_is_revoked_is_refused_within_a_second(cache: PrincipalCache, change: str) -> None:
    home = await household()
    await cache.get(home.key_text)

    def apply() -> None:
        if change == "revoke":
            services.revoke_api_key(SYSTEM, home.key)
        elif change == "switch off":
            services.update_tenant(SYSTEM, home.tenant, active=False)
        else:
            with rls.tenant_scope(home.tenant.id):
                ApiKey.objects.filter(id=home.key.id).update(expires_at="2020-01-01T00:00Z")

    await sync_to_async(apply)()
    assert await refused_within(cache, home.key_text, 1.0) < 1.0


async def test_a_changed_project_is_seen(cache: PrincipalCache) -> None:
    home = await household()
    assert (await cache.get(home.key_text)).data_class == "internal"
    await sync_to_async(services.update_project)(SYSTEM, home.project, default_data_class="secret")
    deadline = time.monotonic() + 1
    while (await cache.get(home.key_text)).data_class != "secret":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_changed_default_of_the_tenant_is_seen(cache: PrincipalCache) -> None:
    home = await household()
    await sync_to_async(services.update_project)(SYSTEM, home.project, default_data_class="")
    await sync_to_async(services.update_tenant)(SYSTEM, home.tenant, default_data_class="secret")
    deadline = time.monotonic() + 1
    while (await cache.get(home.key_text)).data_class != "secret":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_nothing_kept_is_used_while_no_change_can_be_heard(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, counted = await household(), Counted(monkeypatch)
    cache = PrincipalCache(database, ChangeListener("postgresql://127.0.0.1:1/none"))  # never started
    for _ in range(3):
        await cache.get(home.key_text)
    assert counted.count == 3
    await sync_to_async(services.revoke_api_key)(SYSTEM, home.key)
    with pytest.raises(Unauthenticated):
        await cache.get(home.key_text)
    await cache.close()


async def test_an_answer_that_a_change_overtook_is_not_kept(
    cache: PrincipalCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, real = await household(), principals._find
    await asyncio.sleep(0.1)

    async def slow(database: Database, digest: bytes) -> Any:
        found = await real(database, digest)
        cache._changed("key", str(home.key.id))  # the announcement comes between the answer and its keeping
        return found

    monkeypatch.setattr(principals, "_find", slow)
    await cache.get(home.key_text)
    assert cache._kept == {}


async def test_a_wrong_key_costs_one_question_and_a_new_key_works_at_once(
    cache: PrincipalCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, counted, text = await household(), Counted(monkeypatch), keys.generate()
    await asyncio.sleep(0.1)
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="not known"):
            await cache.get(text)
    assert counted.count == 1

    def issue() -> None:
        with rls.tenant_scope(home.tenant.id):
            ApiKey.objects.create(
                tenant=home.tenant, project=home.project, name="late", prefix="x", pepper_id="p1",
                digest=keys.digest(text), scopes=["inference"], service_account=True,
            )  # fmt: skip

    await sync_to_async(issue)()
    await asyncio.sleep(0.2)
    assert (await cache.get(text)).name == "late"


async def test_it_stays_bounded_and_holds_no_key(cache: PrincipalCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrincipalCache, "MOST", 10)
    texts = [keys.generate() for _ in range(30)]
    for text in texts:
        with pytest.raises(Unauthenticated):
            await cache.get(text)
    assert len(cache._kept) == 10
    assert not [text for text in texts if text in repr(cache._kept)]


async def test_one_who_leaves_does_not_spoil_it_for_the_others(cache: PrincipalCache) -> None:
    home = await household()
    first, second = asyncio.create_task(cache.get(home.key_text)), asyncio.create_task(cache.get(home.key_text))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == home.principal
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_uses_are_noted(cache: PrincipalCache, monkeypatch: pytest.MonkeyPatch) -> None:
    home = await household()
    await cache.get(home.key_text)
    await cache.close()

    def used() -> bool:
        with rls.tenant_scope(home.tenant.id):
            return ApiKey.objects.get(id=home.key.id).last_used_at is not None

    assert await sync_to_async(used)()
