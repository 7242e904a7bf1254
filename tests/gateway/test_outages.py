"""What clients meet while a part is away, and that nothing is answered which is not recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from django.db import connections

from kasbah.residency.services import cordon_site, resume_site
from tests.factories import SYSTEM, Household
from tests.gateway.calls import CHAT, chat, error_of, inference_events, job_of, jobs_of, post
from tests.gateway.stack import Stack, wait_until

pytestmark = pytest.mark.slow


@contextmanager
def without(superuser: psycopg.Connection, table: str) -> Iterator[None]:
    """The application may not insert into `table`, as if the disk were full."""
    superuser.execute(f"REVOKE INSERT ON {table} FROM kasbah_app")
    try:
        yield
    finally:
        superuser.execute(f"GRANT INSERT ON {table} TO kasbah_app")


def asked(stack: Stack, tag: str) -> bool:
    """Whether the engine saw a prompt with `tag`."""
    return stack.journal.exists() and tag in stack.journal.read_text()


@pytest.mark.parametrize("table", ["audit_intake", "serving_job"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_recorded_is_not_dispatched(
    stack: Stack, client_of: Household, superuser: psycopg.Connection, table: str, stream: bool
) -> None:
    tag = f"unrecorded-{table}-{stream}"
    with without(superuser, table):
        response = post(stack, client_of, CHAT, chat(tag, stream=stream))
    assert (response.status_code, error_of(response)["code"]) == (503, "not_recorded")
    assert int(response.headers["retry-after"]) >= 1
    assert not asked(stack, tag)
    assert jobs_of(client_of) == []
    assert inference_events(client_of) == []
    assert post(stack, client_of, CHAT, chat(tag)).status_code == 200
    assert asked(stack, tag), "the control: otherwise it reaches the engine"


def test_a_denial_that_cannot_be_recorded_is_a_503(stack: Stack, superuser: psycopg.Connection) -> None:
    who = stack.household({"version": 1, "rules": []})
    with without(superuser, "audit_intake"):
        assert post(stack, who, CHAT, chat("x")).status_code == 503
    assert post(stack, who, CHAT, chat("x")).status_code == 403


def test_an_answer_whose_outcome_cannot_be_recorded_is_withheld(
    stack: Stack, client_of: Household, superuser: psycopg.Connection
) -> None:
    answers: list[httpx.Response] = []
    body = chat("withheld [[tokens=2 delay=0.5 tag=answer]]")
    thread = threading.Thread(target=lambda: answers.append(post(stack, client_of, CHAT, body)))
    thread.start()
    wait_until(lambda: asked(stack, "withheld"), "the engine to begin")
    with without(superuser, "audit_intake"):
        thread.join()
    assert (answers[0].status_code, error_of(answers[0])["code"]) == (503, "not_recorded")
    assert "answer0" not in answers[0].text
    assert inference_events(client_of)[-1]["type"] == "inference.intent"


def test_a_stream_whose_outcome_cannot_be_recorded_ends_with_an_error(
    stack: Stack, client_of: Household, superuser: psycopg.Connection
) -> None:
    headers = {"authorization": f"Bearer {client_of.key_text}"}
    body = chat("x [[tokens=6 delay=0.2]]", stream=True)
    with httpx.stream("POST", f"{stack.web.url}{CHAT}", json=body, headers=headers, timeout=30) as response:
        lines = response.iter_lines()
        assert "data: " in next(lines) + next(lines)
        with without(superuser, "audit_intake"):
            rest = list(lines)
    assert "data: [DONE]" not in rest
    last = [line for line in rest if line.startswith("data: ")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "not_recorded"


def test_a_site_that_is_away(stack: Stack, client_of: Household) -> None:
    store = stack.places["north"].store
    assert stack.web.ready()["status"] == "ready"
    store.kill()
    try:
        for _ in range(3):
            begun = time.monotonic()
            response = post(stack, client_of, CHAT, chat("x"))
            assert time.monotonic() - begun < 2.5
            assert response.status_code == 503
            assert error_of(response)["code"] in {"no_capacity", "service_unavailable"}
            assert int(response.headers["retry-after"]) >= 1
        wait_until(lambda: stack.web.ready()["parts"]["sites"] != "ok", "readiness to notice")
        assert stack.web.ready()["parts"]["database"] == "ok"
        assert {job.state for job in jobs_of(client_of)} <= {"failed"}
        assert httpx.get(f"{stack.web.url}/healthz").json() == {"status": "ok"}
    finally:
        store.start()
    stack.await_capacity(client_of.key_text)
    wait_until(lambda: stack.web.ready()["status"] == "ready", "readiness to notice")  # it is kept for a second


def test_the_store_of_limits_away(stack: Stack, client_of: Household, valkey_server: object) -> None:
    valkey_server.kill()  # type: ignore[attr-defined]
    try:
        response = post(stack, client_of, CHAT, chat("x"))
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        wait_until(lambda: stack.web.ready()["parts"]["store"] == "away", "readiness to notice")
    finally:
        valkey_server.start()  # type: ignore[attr-defined]
    stack.await_capacity(client_of.key_text)


def test_the_database_away(stack: Stack, client_of: Household, postgres_server: object) -> None:
    assert post(stack, client_of, CHAT, chat("x")).status_code == 200
    postgres_server.kill()  # type: ignore[attr-defined]
    try:
        response = post(stack, client_of, CHAT, chat("x"))
        assert response.status_code == 503
        wait_until(lambda: stack.web.ready()["parts"]["database"] == "away", "readiness to notice")
        assert stack.web.ready()["parts"]["changes"] != "ok"
        assert httpx.get(f"{stack.web.url}/readyz").status_code == 503
    finally:
        postgres_server.start()  # type: ignore[attr-defined]
        connections["default"].close()  # this process's own died too
        connections["default"].close_pool()  # type: ignore[attr-defined]
    wait_until(lambda: stack.web.ready()["status"] == "ready", "the database")
    stack.await_capacity(client_of.key_text)
    response = post(stack, client_of, CHAT, chat("x"))
    assert job_of(client_of, response).state == "succeeded"


def test_no_worker(stack: Stack, client_of: Household) -> None:
    stack.stop_worker("worker-north")
    try:
        time.sleep(2)  # reports are read each second
        for stream in (False, True):
            response = post(stack, client_of, CHAT, chat("x", stream=stream))
            assert (response.status_code, error_of(response)["code"]) == (503, "no_capacity")
        assert int(response.headers["retry-after"]) >= 1
    finally:
        stack.start_worker("north")
    stack.await_capacity(client_of.key_text)


def test_a_cordoned_site_is_named(stack: Stack, client_of: Household) -> None:
    north = stack.places["north"].site
    cordon_site(SYSTEM, north)
    try:
        time.sleep(1)  # every process has heard of it
        response = post(stack, client_of, CHAT, chat("x"))
        assert (response.status_code, error_of(response)["code"]) == (503, "no_capacity")
        assert "Site north is cordoned" in error_of(response)["message"]
    finally:
        resume_site(SYSTEM, north)
    stack.await_capacity(client_of.key_text)
    assert post(stack, client_of, CHAT, chat("x")).status_code == 200
