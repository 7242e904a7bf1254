"""Streams that wait, break, are left, are not read, and are taken up again."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import psutil
import pytest

from tests import factories
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, chunks_of, error_of, events, get, inference_events, jobs_of, post, usage_of
from tests.gateway.stack import Stack, wait_until

pytestmark = pytest.mark.slow


def journal(stack: Stack, tag: str) -> list[dict[str, Any]]:
    """What the engine did about chats that hold `tag`."""
    lines = [json.loads(line) for line in stack.journal.read_text().splitlines()]
    return [line for line in lines if line["path"] == CHAT and tag in json.dumps(line["body"])]


def test_a_short_wait_is_silent_and_a_long_one_is_told(stack: Stack, client_of: Household) -> None:
    quick = post(stack, client_of, CHAT, chat("x [[delay=0.2 tokens=2]]", stream=True))
    assert ": waiting" not in quick.text
    assert quick.headers["kasbah-site"] == "north"
    headers = {"authorization": f"Bearer {client_of.key_text}"}
    body = chat("x [[delay=2 tokens=2]]", stream=True)
    begun = time.monotonic()
    with httpx.stream("POST", f"{stack.web.url}{CHAT}", json=body, headers=headers, timeout=30) as slow:
        held = time.monotonic() - begun
        lines = list(slow.iter_lines())
    assert 0.9 < held < 1.9, "the status is held for a second here, and no longer"
    assert lines[0] == ": waiting"
    assert "kasbah-site" not in slow.headers
    assert slow.headers["kasbah-policy-version"] == "1"
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"


def test_a_failure_after_the_wait_is_a_frame(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("x [[delay=2 crash_after=1 tokens=3]]", stream=True))
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    last = json.loads(events(iter(response.text.split("\n")))[-1]["data"])
    assert last["error"]["code"] == "engine_lost"
    time.sleep(2)  # until the worker's report of the lost engine was read
    stack.await_capacity(client_of.key_text)


def test_a_failure_after_the_first_token_raises_in_the_sdk_and_is_metered(stack: Stack, client_of: Household) -> None:
    client = openai.OpenAI(base_url=f"{stack.web.url}/v1", api_key=client_of.key_text, max_retries=0)
    text = "one two [[tokens=5 stream_error=2 delay=0.1]]"
    stream = client.chat.completions.create(model="mini", messages=[{"role": "user", "content": text}], stream=True)
    got = [next(stream).choices[0].delta.content for _ in range(3)]
    assert got == ["", " t0", " t1"]
    with pytest.raises(openai.APIError, match="engine"):
        next(stream)
    assert usage_of(client_of) == [(5, 2)]
    [job] = jobs_of(client_of)
    assert (job.state, job.completion_tokens) == ("failed", 2)
    assert inference_events(client_of)[-1]["outcome"] == "failure"


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_stops_the_engine_within_a_second(
    stack: Stack, client_of: Household, streams: bool
) -> None:
    tag = f"leaves-{streams}"
    body = json.dumps(chat(f"{tag} [[tokens=400 delay=0.05]]", stream=streams)).encode()
    with _connect(stack) as connection:
        connection.sendall(_request(client_of, body))
        wait_until(lambda: journal(stack, tag), "the engine to begin")
        if streams:
            assert b"200 OK" in connection.recv(65536)
        time.sleep(0.5)
        left = time.time()
    wait_until(lambda: journal(stack, tag)[-1]["event"] == "aborted", "the engine to stop", 5)
    stopped = journal(stack, tag)[-1]
    assert stopped["time"] - left < 1.0
    wait_until(lambda: usage_of(client_of), "the usage")
    [(prompt, completion)] = usage_of(client_of)
    assert prompt == 3
    assert completion > 5 if streams else completion >= 0
    [job] = jobs_of(client_of)
    assert (job.state, job.payload) == ("cancelled", None)
    assert inference_events(client_of)[-1]["outcome"] == "cancelled"


def _connect(stack: Stack) -> socket.socket:
    address = urlsplit(stack.web.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), 5)


def _request(who: Household, body: bytes) -> bytes:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {who.key_text}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def test_a_client_that_does_not_read_costs_no_memory(stack: Stack, client_of: Household) -> None:
    process = psutil.Process(stack.web.process.pid)
    body = json.dumps(chat("deaf [[tokens=2000]]", stream=True)).encode()
    before = process.memory_info().rss
    connections = []
    for _ in range(20):
        connection = _connect(stack)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(_request(client_of, body))
        connections.append(connection)
    begun = time.monotonic()
    assert post(stack, client_of, CHAT, chat("x [[tokens=1]]")).status_code == 200
    assert time.monotonic() - begun < 5
    wait_until(lambda: len([job for job in jobs_of(client_of) if job.stream]) == 20, "the jobs")
    time.sleep(2)
    grown = process.memory_info().rss - before
    for connection in connections:
        connection.close()
    assert grown < 40 * 2**20, f"{grown / 2**20:.0f} MiB for 20 streams of 400 KB that nobody reads"


def test_an_engine_that_dies_before_the_first_token_is_not_noticed(stack: Stack, client_of: Household) -> None:
    stack.start_worker("north", "second")
    try:
        wait_until(lambda: len(_engines(stack)) == 2, "the second engine")
        time.sleep(3)  # its report
        tag = "dies-early"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(post, stack, client_of, CHAT, chat(f"{tag} [[tokens=2 delay=2]]"))
            wait_until(lambda: journal(stack, tag), "the engine to begin")
            _kill_engine_of(stack, client_of)
            answer = waiting.result(30)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == " t0 t1"
        [job] = jobs_of(client_of)
        assert (job.state, job.attempt) == ("succeeded", 2)
        assert usage_of(client_of) == [(3, 2)]
    finally:
        stack.stop_worker("second-north")


def _engines(stack: Stack) -> dict[str, psutil.Process]:
    """Engines by the name of their worker."""
    found = {}
    for name, child in stack.workers.items():
        for process in psutil.Process(child.pid).children(recursive=True):
            if "--served-model-name=mini" in " ".join(process.cmdline()) and "keeper.py" not in " ".join(
                process.cmdline()
            ):
                found[name] = process
    return found


def _kill_engine_of(stack: Stack, who: Household) -> None:
    import redis

    from inference_worker.contract import keys
    from kasbah.common import rls
    from kasbah.serving.models import Worker

    [job] = jobs_of(who)
    with redis.Redis.from_url(stack.places["north"].store.url) as store:
        worker = store.hget(keys.job(str(job.id)), "worker")
    assert isinstance(worker, bytes)
    with rls.platform_scope():
        name = Worker.objects.get(pk=worker.decode()).name
    _engines(stack)[name].kill()


def test_before_the_first_token_an_error_is_real_json(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("x [[error=400]]", stream=True))
    assert error_of(response)["code"] == "invalid_request"
    assert response.status_code == 400


def _leave_after(stack: Stack, who: Household, text: str, count: int, **headers: str) -> tuple[str, list[str], str]:
    """Read `count` contents of a stream and close the connection: request id, contents, last event id."""
    contents, last = [], ""
    given = {"authorization": f"Bearer {who.key_text}", **{name.replace("_", "-"): v for name, v in headers.items()}}
    with httpx.stream(
        "POST", f"{stack.web.url}{CHAT}", json=chat(text, stream=True), headers=given, timeout=30
    ) as response:
        for line in response.iter_lines():
            if line.startswith("id: "):
                last = line[4:]
            elif line.startswith("data: "):
                contents.append(json.loads(line[6:])["choices"][0]["delta"]["content"])
            if len(contents) == count + 1:
                break
        return response.headers["x-request-id"], contents, last


def test_a_stream_that_may_be_taken_up_again_loses_and_doubles_nothing(stack: Stack, client_of: Household) -> None:
    text = "[[tokens=60 delay=0.03]]"
    request_id, before, last = _leave_after(stack, client_of, text, 10, kasbah_resume_within="30")
    time.sleep(0.5)
    again = get(stack, client_of, f"/v1/streams/{request_id}", last_event_id=last)
    assert again.headers["content-type"].startswith("text/event-stream")
    assert again.headers["kasbah-site"] == "north"
    after = [chunk["choices"][0]["delta"]["content"] for chunk in chunks_of(again)]
    assert "".join(before + after) == "".join(f" t{i}" for i in range(60))
    assert [job.state for job in jobs_of(client_of)] == ["succeeded"]
    assert usage_of(client_of) == [(2, 60)]
    whole = get(stack, client_of, f"/v1/streams/{request_id}?include_usage=true")
    assert chunks_of(whole)[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 60, "total_tokens": 62}
    assert {chunk["id"] for chunk in chunks_of(whole)} == {f"chatcmpl-{request_id}"}


def test_without_that_wish_the_engine_stops_and_the_rest_is_an_error(stack: Stack, client_of: Household) -> None:
    request_id, before, last = _leave_after(stack, client_of, "[[tokens=400 delay=0.03]]", 5)
    assert last == "", "ids are for those who asked to take the stream up again"
    wait_until(lambda: jobs_of(client_of)[0].state == "cancelled", "the engine to stop")
    [job] = jobs_of(client_of)
    rest = get(stack, client_of, f"/v1/streams/{request_id}", last_event_id=f"{job.attempt}-{len(before)}")
    found = [json.loads(event["data"]) for event in events(iter(rest.text.split("\n")))]
    assert found[-1]["error"]["code"] == "cancelled"
    assert len(before) - 1 + len(found) - 1 == job.completion_tokens


def test_a_window_that_passes_stops_the_engine(stack: Stack, client_of: Household) -> None:
    tag = "window-passes"
    _leave_after(stack, client_of, f"{tag} [[tokens=400 delay=0.03]]", 5, kasbah_resume_within="2")
    left = time.time()
    wait_until(lambda: journal(stack, tag)[-1]["event"] == "aborted", "the engine to stop")
    assert 1.5 < journal(stack, tag)[-1]["time"] - left < 3.2


def test_streams_belong_to_their_key(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("x", stream=True))
    path = f"/v1/streams/{response.headers['x-request-id']}"
    for who in (stack.household(), _another_key(client_of)):
        foreign = get(stack, who, path)
        missing = get(stack, who, "/v1/streams/req_0")
        assert (foreign.status_code, error_of(foreign)["code"]) == (404, "stream_not_found")
        assert foreign.content == missing.content
    assert get(stack, client_of, path).status_code == 200
    wrong = get(stack, client_of, path, last_event_id="x")
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "last-event-id")
    assert get(stack, client_of, path, last_event_id="2-1").status_code == 409


def _another_key(who: Household) -> Household:
    key, text = factories.api_key(who.project)
    return replace(who, key=key, key_text=text)


@pytest.mark.parametrize(
    ("query", "param"),
    [("include_usage=true&include_usage=false", "include_usage"), ("include_usage=1", "include_usage"), ("x&x=", "x")],
)
def test_what_a_query_says_twice_or_otherwise_is_named(
    stack: Stack, client_of: Household, query: str, param: str
) -> None:
    response = get(stack, client_of, f"/v1/streams/none?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    if query == "x&x=":
        assert error_of(get(stack, client_of, f"/v1/models?{query}"))["param"] == param
    # Other names mean nothing, also where one ends like ours.
    assert error_of(get(stack, client_of, "/v1/streams/none?xinclude_usage=1"))["code"] == "stream_not_found"
