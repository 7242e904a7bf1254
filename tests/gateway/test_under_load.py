"""More streams than connections, and the end of a process that answers."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx
import pytest

from tests.factories import Household
from tests.gateway.calls import CHAT, chat, error_of, jobs_of, usage_of
from tests.gateway.stack import Stack, Web, wait_until

pytestmark = pytest.mark.slow

SETTINGS = {"KASBAH_LEASE_MS": "3000"}  # what a killed process held is soon free
POOL = 4


def headers(who: Household) -> dict[str, str]:
    return {"authorization": f"Bearer {who.key_text}"}


async def read_stream(client: httpx.AsyncClient, who: Household, text: str) -> tuple[int, str]:
    """Status and whole text of a stream."""
    async with client.stream("POST", CHAT, json=chat(text, stream=True), headers=headers(who)) as response:
        return response.status_code, (await response.aread()).decode()


async def test_streams_three_times_the_pool_hold_no_connection(stack: Stack, client_of: Household) -> None:
    web = await asyncio.to_thread(stack.start_web, "small-pool", KASBAH_GATEWAY_POOL=str(POOL))
    await asyncio.to_thread(stack.await_capacity, client_of.key_text, web)
    async with httpx.AsyncClient(base_url=web.url, timeout=60) as client:
        streams = [
            asyncio.create_task(read_stream(client, client_of, f"{i} [[tokens=20 delay=0.2]]")) for i in range(POOL * 3)
        ]
        await asyncio.sleep(1.5)
        waits = []
        for _ in range(5):
            begun = time.monotonic()
            answer = await client.post(CHAT, json=chat("x [[tokens=1]]"), headers=headers(client_of))
            waits.append(time.monotonic() - begun)
            assert answer.status_code == 200
        assert not any(stream.done() for stream in streams), "the streams were to be open meanwhile"
        ended = await asyncio.gather(*streams)
    assert all(status == 200 and text.endswith("data: [DONE]\n\n") for status, text in ended)
    assert "PoolTimeout" not in web.log.read_text()
    assert max(waits) <= 0.5, waits
    web.process.terminate()


@pytest.fixture
def doomed(stack: Stack, client_of: Household) -> Web:
    """A web process to be ended, warmed up."""
    web = stack.start_web("doomed")
    stack.await_capacity(client_of.key_text, web)
    return web


async def test_sigterm_ends_every_stream_within_ten_seconds(stack: Stack, client_of: Household, doomed: Web) -> None:
    before = len(await asyncio.to_thread(jobs_of, client_of))
    async with httpx.AsyncClient(base_url=doomed.url, timeout=60) as client:
        short = [asyncio.create_task(read_stream(client, client_of, "[[tokens=20 delay=0.2]]")) for _ in range(5)]
        long = [asyncio.create_task(read_stream(client, client_of, "[[tokens=900 delay=0.2]]")) for _ in range(5)]
        whole = asyncio.create_task(
            client.post(CHAT, json=chat("[[tokens=900 delay=0.2]]"), headers=headers(client_of))
        )
        await asyncio.sleep(1.5)
        begun = time.monotonic()
        doomed.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient().get(f"{doomed.url}/healthz")
        ended_short, ended_long = await asyncio.gather(*short), await asyncio.gather(*long)
        answer = await whole
    await asyncio.to_thread(doomed.process.wait, 10)
    assert time.monotonic() - begun <= 10
    assert all(text.endswith("data: [DONE]\n\n") for _, text in ended_short), "what ends in time ends well"
    for status, text in ended_long:
        assert status == 200
        assert '"code":"server_shutting_down"' in text.rstrip().rpartition("\n")[2]
    assert (answer.status_code, error_of(answer)["code"]) == (503, "server_shutting_down")
    jobs = (await asyncio.to_thread(jobs_of, client_of))[before:]
    assert sorted(job.state for job in jobs) == ["cancelled"] * 6 + ["succeeded"] * 5
    assert len(await asyncio.to_thread(usage_of, client_of)) == before + 11


def test_an_idle_process_ends_at_once(doomed: Web) -> None:
    begun = time.monotonic()
    doomed.process.terminate()
    assert doomed.process.wait(10) in {0, -signal.SIGTERM}  # uvicorn ends by the signal it was sent
    assert time.monotonic() - begun < 3
    assert "Traceback" not in doomed.log.read_text()


def test_a_killed_process_leaves_its_jobs_to_housekeeping(stack: Stack, client_of: Household, doomed: Web) -> None:
    before = len(jobs_of(client_of))
    body = chat("[[tokens=900 delay=0.2]]", stream=True)
    with httpx.stream("POST", f"{doomed.url}{CHAT}", json=body, headers=headers(client_of), timeout=30) as response:
        next(response.iter_lines())
        doomed.process.kill()
    wait_until(lambda: jobs_of(client_of)[before].finished_at is not None, "housekeeping", 60)
    assert jobs_of(client_of)[before].state in {"cancelled", "failed"}
