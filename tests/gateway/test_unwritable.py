"""Parts that answer and take no writes, or forget: 503 with `retry-after` everywhere, readiness says why, and heals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from django.conf import settings
from django.db import connection
from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004

from infra.local.valkey import Valkey
from kasbah.common import stores
from tests import factories
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, post
from tests.gateway.stack import Stack, wait_until

pytestmark = pytest.mark.slow
EMAIL = "ada@example.org"
PASSWORD = "correct horse battery staple"


def end_sessions(superuser: psycopg.Connection[Any]) -> None:
    """Of the application: what rests in a pool is closed by the server."""
    superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'kasbah_app'")
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]


@contextmanager
def read_only(superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """As a standby is that has not been promoted, for whoever writes."""
    superuser.execute("ALTER ROLE kasbah_app SET default_transaction_read_only = on")
    end_sessions(superuser)
    try:
        yield
    finally:
        superuser.execute("ALTER ROLE kasbah_app RESET default_transaction_read_only")
        end_sessions(superuser)


def calls(stack: Stack, who: Household, admin: httpx.Client) -> dict[str, Callable[[], httpx.Response]]:
    """One of each way in that writes."""
    url, key = stack.web.url, {"authorization": f"Bearer {who.key_text}"}
    return {
        "chat": lambda: post(stack, who, CHAT, chat("x")),
        "stream": lambda: post(stack, who, CHAT, chat("x", stream=True)),
        "idempotent": lambda: httpx.post(
            url + CHAT, json=chat("x"), headers=key | {"idempotency-key": factories.slug("k")}, timeout=20
        ),
        "tenant": lambda: admin.post("/api/tenants/", json={"slug": factories.slug("new"), "name": "N"}),
        "login": lambda: login(url),
        "failed login": lambda: login(url, "wrong"),
    }


def login(url: str, password: str = PASSWORD) -> httpx.Response:
    return httpx.post(f"{url}/api/session/", json={"email": EMAIL, "password": password}, timeout=20)


@pytest.fixture
def admin(stack: Stack) -> Iterator[httpx.Client]:
    """A platform administrator who is logged in."""
    from kasbah.common import rls
    from kasbah.identity.models import User

    with rls.platform_scope():
        there = User.objects.filter(email=EMAIL).first()
    user = there or factories.user(EMAIL, is_platform_admin=True)
    user.set_password(PASSWORD)
    with rls.platform_scope():
        user.save()
    with httpx.Client(base_url=stack.web.url, timeout=20) as client:
        done = client.post("/api/session/", json={"email": EMAIL, "password": PASSWORD})
        assert done.status_code == 200, done.text
        client.headers["x-csrftoken"] = client.cookies["csrftoken"]
        yield client


def refused(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] in ("service_unavailable", "not_recorded")


WAYS = ("chat", "stream", "idempotent", "tenant", "login", "failed login")


def test_a_database_that_takes_no_writes(
    stack: Stack, client_of: Household, admin: httpx.Client, superuser: psycopg.Connection[Any]
) -> None:
    ways = calls(stack, client_of, admin)
    assert set(ways) == set(WAYS)
    with read_only(superuser):
        wait_until(lambda: stack.web.ready()["parts"]["database"] == "read-only", "readiness to notice")
        assert httpx.get(f"{stack.web.url}/readyz").status_code == 503
        for way in ways.values():
            refused(way())
    wait_until(lambda: stack.web.ready()["status"] == "ready", "readiness to heal")
    assert {name: way().status_code for name, way in ways.items()} == {
        "chat": 200,
        "stream": 200,
        "idempotent": 200,
        "tenant": 201,
        "login": 200,
        "failed login": 401,
    }


BROKEN = {
    "full": ("maxmemory", "1", "536870912", "full"),
    "forgets": ("maxmemory-policy", "allkeys-lru", "noeviction", "forgets (maxmemory-policy allkeys-lru)"),
    "forgets some": ("maxmemory-policy", "volatile-ttl", "noeviction", "forgets (maxmemory-policy volatile-ttl)"),
    "too few replicas": ("min-replicas-to-write", "2", "0", "refusing writes"),
}


@contextmanager
def broken(server: Valkey, name: str) -> Iterator[None]:
    setting, value, right, _ = BROKEN[name]
    with Redis.from_url(server.url) as store:
        store.config_set(setting, value)
        try:
            yield
        finally:
            store.config_set(setting, right)


@pytest.mark.parametrize("name", BROKEN)
def test_the_control_planes_store(stack: Stack, client_of: Household, valkey_server: Valkey, name: str) -> None:
    with broken(valkey_server, name):
        wait_until(lambda: BROKEN[name][3] in stack.web.ready()["parts"]["store"], "readiness to notice")
        if not name.startswith("forgets"):
            refused(post(stack, client_of, CHAT, chat("x")))
    wait_until(lambda: stack.web.ready()["status"] == "ready", "readiness to heal")
    assert post(stack, client_of, CHAT, chat("x")).status_code == 200


@pytest.mark.parametrize("name", BROKEN)
def test_a_sites_store(stack: Stack, client_of: Household, name: str) -> None:
    with broken(stack.places["north"].store, name):
        wait_until(lambda: BROKEN[name][3] in stack.web.ready()["parts"]["sites"], "readiness to notice")
        response = post(stack, client_of, CHAT, chat("x"))
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
    wait_until(lambda: stack.web.ready()["status"] == "ready", "readiness to heal")
    stack.await_capacity(client_of.key_text)


def test_a_store_that_became_a_replica(stack: Stack, client_of: Household, valkey_server: Valkey) -> None:
    with Redis.from_url(valkey_server.url) as store:
        store.replicaof("127.0.0.1", "1")
        try:
            wait_until(lambda: stack.web.ready()["parts"]["store"] == "read-only", "readiness to notice")
            refused(post(stack, client_of, CHAT, chat("x")))
        finally:
            store.replicaof("NO", "ONE")
    wait_until(lambda: stack.web.ready()["status"] == "ready", "readiness to heal")
    assert post(stack, client_of, CHAT, chat("x")).status_code == 200


def drop(server: Valkey) -> None:
    with Redis.from_url(server.url) as store:
        store.execute_command("CLIENT", "KILL", "TYPE", "normal")


def test_a_rested_connection_that_was_closed_costs_no_request(
    stack: Stack, client_of: Household, admin: httpx.Client, valkey_server: Valkey, superuser: psycopg.Connection[Any]
) -> None:
    ways = calls(stack, client_of, admin)
    for _ in range(3):
        assert ways["chat"]().status_code == 200
        wait_until(lambda: stack.web.ready()["status"] == "ready", "readiness")
        drop(valkey_server)
        assert ways["chat"]().status_code == 200
        assert ways["login"]().status_code == 200
        drop(valkey_server)
        assert ways["login"]().status_code == 200
    time.sleep(1)  # what was used just now is not asked whether it lives
    end_sessions(superuser)
    assert ways["chat"]().status_code == 200
    assert ways["login"]().status_code == 200


async def test_without_the_second_try_it_costs_one(
    redis: Any, valkey_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    with_try = stores.client()
    monkeypatch.setattr(stores, "async_retry", lambda: None)
    without = stores.client()
    try:
        for client in (with_try, without):
            await client.ping()
        drop(valkey_server)
        assert await with_try.ping()
        with pytest.raises(ConnectionError, match="closed by server"):
            await without.ping()
    finally:
        await with_try.aclose()
        await without.aclose()


@pytest.mark.parametrize(
    "policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl", "volatile-random"]
)
def test_a_policy_that_forgets_is_refused_at_the_start(valkey_server: Valkey, policy: str) -> None:
    with Redis.from_url(valkey_server.url) as store:
        store.config_set("maxmemory-policy", policy)
        try:
            with pytest.raises(stores.ForgetfulStore, match=f"{policy}.*noeviction"):
                stores.refuse_forgetful()
        finally:
            store.config_set("maxmemory-policy", "noeviction")
    stores.refuse_forgetful()


def test_a_user_that_may_not_ask_is_refused_at_the_start(
    valkey_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Redis.from_url(valkey_server.url) as store:
        store.execute_command("ACL", "SETUSER", "blind", "on", ">word", "allkeys", "+@all", "-@dangerous")
    url = valkey_server.url.replace(f"://:{valkey_server.password}", "://blind:word")
    monkeypatch.setattr(settings, "REDIS_URL", url)
    with pytest.raises(stores.ForgetfulStore, match="allow this user INFO"):
        stores.refuse_forgetful()
