"""Hearing of changes within a second, and knowing when one might have been missed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import psycopg
import pytest
from asgiref.sync import sync_to_async

from kasbah.common import rls
from kasbah.common.changes import ChangeListener
from kasbah.identity.models import ApiKey
from kasbah.metering.models import Limit
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


async def until(condition: Callable[[], bool], seconds: float = 1.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def test_each_change_is_told_with_its_topic(app_url: str) -> None:
    heard: list[tuple[str, str]] = []
    listener = ChangeListener(app_url)
    listener.subscribe(lambda topic, ident: heard.append((topic, ident)))
    await listener.start()
    assert listener.healthy
    assert heard == [("*", "*")]
    home = await sync_to_async(factories.household)()
    await until(lambda: ("key", str(home.key.id)) in heard)
    assert {("tenant", str(home.tenant.id)), ("project", str(home.project.id))} <= set(heard)

    def limit_and_use() -> None:
        with rls.tenant_scope(home.tenant.id):
            ApiKey.objects.filter(id=home.key.id).update(last_used_at="2026-01-01T00:00Z")
            Limit.objects.create(tenant=home.tenant, scope="tenant", subject_id=home.tenant.id)

    heard.clear()
    await sync_to_async(limit_and_use)()
    await until(lambda: ("limit", str(home.tenant.id)) in heard)
    assert heard == [("limit", str(home.tenant.id))]  # a use of a key is no change
    await listener.close()
    assert not listener.healthy


async def test_no_change_is_missed_while_the_connection_is_busy(app_url: str, owner: psycopg.Connection) -> None:
    heard: list[str] = []
    listener = ChangeListener(app_url)
    listener.subscribe(lambda topic, ident: heard.append(ident))
    await listener.start()
    for number in range(300):
        await asyncio.to_thread(owner.execute, "SELECT pg_notify('kasbah_changed', %s)", [f"key:{number}"])
        await asyncio.sleep(0.003)
    await until(lambda: len(heard) == 301)
    assert heard[1:] == [str(number) for number in range(300)]
    await listener.close()


async def test_a_lost_connection_is_unhealthy_and_forgets_everything(
    app_url: str, superuser: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []
    listener = ChangeListener(app_url)
    listener.subscribe(lambda topic, ident: heard.append(topic))
    await listener.start()
    superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
    )
    await until(lambda: not listener.healthy)
    await until(lambda: listener.healthy, 3.0)
    assert heard == ["*", "*"]
    await listener.close()
    assert "caches are bypassed" in caplog.text


async def test_a_server_that_is_away_makes_it_unhealthy_and_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    listener = ChangeListener("postgresql://app:very-secret@127.0.0.1:1/kasbah")
    with caplog.at_level(logging.DEBUG):
        await listener.start()
    assert not listener.healthy
    assert "caches are bypassed" in caplog.text
    assert "very-secret" not in caplog.text
    await listener.close()


async def test_a_subscriber_that_fails_hides_nothing_from_the_others(
    app_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(topic: str, ident: str) -> None:
        raise ValueError(topic)

    listener = ChangeListener(app_url)
    listener.subscribe(fail)
    listener.subscribe(lambda topic, ident: heard.append(topic))
    await listener.start()
    assert heard == ["*"]
    assert listener.healthy
    await listener.close()
