"""One tenant that floods what all share: the others are served as before."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from kasbah.common.database import Database
from kasbah.common.errors import RateLimited
from kasbah.common.shares import SharedPool
from kasbah.config.front import Front
from kasbah.gateway import admission, classifying, inference
from kasbah.gateway.classifying import SHORT, Classifying
from kasbah.gateway.resumption import MOST
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, error_of
from tests.gateway.stack import Stack

FINANCE, HOSPITAL = uuid4(), uuid4()


def begin_stream(stack: Stack, who: Household, opened: ExitStack) -> str:
    """Ask for a stream that goes on for a while; its path for those who take it up."""
    body = chat("x [[tokens=300 delay=0.1]]", stream=True, max_tokens=300)
    headers = {"authorization": f"Bearer {who.key_text}", "kasbah-resume-within": "60"}
    answer = opened.enter_context(
        httpx.stream("POST", f"{stack.web.url}{CHAT}", json=body, headers=headers, timeout=30)
    )
    assert answer.status_code == 200
    return f"{stack.web.url}/v1/streams/{answer.headers['x-request-id']}"


def take_up(url: str, who: Household, opened: ExitStack) -> httpx.Response:
    headers = {"authorization": f"Bearer {who.key_text}"}
    return opened.enter_context(httpx.stream("GET", url, headers=headers, timeout=30))


@pytest.mark.slow
def test_resumptions_of_one_tenant_leave_room_for_the_others(stack: Stack, client_of: Household) -> None:
    with ExitStack() as opened:
        url = begin_stream(stack, client_of, opened)
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _: take_up(url, client_of, opened), range(MOST - 1)))
        taken = [answer.status_code for answer in answers]
        assert (taken.count(200), taken.count(429)) == (MOST // 2, MOST // 2 - 1)
        refused = next(answer for answer in answers if answer.status_code == 429)
        refused.read()
        assert error_of(refused)["code"] == "share_used"
        other = stack.household()
        assert take_up(begin_stream(stack, other, opened), other, opened).status_code == 200


async def test_requests_of_one_tenant_leave_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = SimpleNamespace(drain=SimpleNamespace(begun=False), under_way=SharedPool("requests", 4))
    begun: list[UUID] = []

    async def understand(runtime: Any, exchange: Any, endpoint: Any) -> Any:
        return SimpleNamespace(principal=SimpleNamespace(tenant_id=exchange), key=None)

    async def admit(runtime: Any, exchange: Any, wish: Any) -> Any:
        begun.append(exchange)
        await asyncio.Event().wait()

    monkeypatch.setattr(admission, "understand", understand)
    monkeypatch.setattr(admission, "admit", admit)

    def ask(tenant: Any) -> asyncio.Task[None]:
        return asyncio.create_task(inference.serve(runtime, tenant, None))  # type: ignore[arg-type]

    tasks = [ask(tenant) for tenant in (FINANCE, FINANCE, FINANCE, HOSPITAL)]
    await asyncio.sleep(0.05)
    assert begun == [FINANCE, FINANCE, HOSPITAL]
    assert isinstance(tasks[2].exception(), RateLimited)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert runtime.under_way._free == 4


def slow_detector(text: str) -> dict[str, int]:
    time.sleep(0.02)
    return {}


async def places(ask: Any, flood: int = 60) -> list[int]:
    """At which places of the order of ends those of the hospital come, which asks after the flood of the other."""
    order: list[UUID] = []

    async def one(tenant: UUID) -> None:
        await ask(tenant)
        order.append(tenant)

    await asyncio.gather(*(one(tenant) for tenant in [*[FINANCE] * flood, HOSPITAL, HOSPITAL]))
    return [place for place, tenant in enumerate(order) if tenant == HOSPITAL]


async def test_long_texts_of_one_tenant_do_not_delay_the_others() -> None:
    looking = Classifying(slow_detector, patience=10)
    found = await places(lambda tenant: looking.look(b'{"a": "%s"}' % (b"x" * SHORT), ["email"], tenant))
    assert max(found) < 10
    alike = await places(lambda tenant: looking.look(b'{"a": "%s"}' % (b"x" * SHORT), ["email"], "everybody"))
    assert min(alike) >= 58, "control: where nobody is told apart, who comes last is served last"
    looking.close()


async def test_a_text_that_was_given_up_keeps_its_turn_until_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifying, "THREADS", 1)
    looking = Classifying(lambda text: time.sleep(0.3) or {}, patience=0.1)
    with pytest.raises(Exception, match="could not be looked through"):
        await looking.look(b'{"a": "b"}', ["email"], FINANCE)
    assert looking._turns._free == 0
    await asyncio.sleep(0.4)
    assert looking._turns._free == 1
    looking.close()


async def test_waiting_transactions_of_one_tenant_do_not_delay_the_others(postgres_server: Any) -> None:
    database = Database(size=2, wait=30)
    await database.open()

    async def ask(tenant: UUID) -> None:
        async with database.transaction(tenant) as connection:
            await connection.execute("SELECT pg_sleep(0.01)")

    async def alike(tenant: UUID) -> None:
        async with database.transaction(tenant, caller="everybody") as connection:
            await connection.execute("SELECT pg_sleep(0.01)")

    try:
        assert max(await places(ask)) < 12
        assert min(await places(alike)) >= 50, "control: as in the pool's own queue"
    finally:
        await database.close()


async def test_waiting_requests_of_one_key_do_not_delay_the_others_of_the_management_api() -> None:
    running = 0
    most = 0

    async def django(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    front = Front(django, django, 2)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ask(tenant: UUID) -> None:
        headers = [(b"authorization", f"Bearer {tenant}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/api/me/", "query_string": b"", "headers": headers}
        await front(scope, receive, receive)  # type: ignore[arg-type]

    assert max(await places(ask)) < 10
    assert most == 2, "no more requests than connections to the database"
