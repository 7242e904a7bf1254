"""Erasure on demand reaches every place that holds content, and what is not content stays."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import psycopg
import pytest
from django.utils import timezone

from kasbah.audit.models import Content, ContentKey
from kasbah.common import rls
from kasbah.identity.services import actor_of_user
from kasbah.residency.services import erasures
from kasbah.residency.services.erasures import Wish
from tests import factories
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, error_of, get, post
from tests.gateway.erasure_places import BYTES, places_of
from tests.gateway.stack import Stack, wait_until

pytestmark = pytest.mark.slow  # a platform of its own

HELD = {"audit_content, opened", "serving_idempotencykey, opened", "store of north, frames opened"}


def ask(stack: Stack, who: Household, canary: str, *, stream: bool) -> httpx.Response:
    """A request whose prompt and answer both hold the canary, kept under an idempotency key of its name."""
    body = chat(f"[[tokens=3 tag={canary}]]", stream=stream)
    return post(stack, who, CHAT, body, idempotency_key=f"k-{canary}-{stream}", kasbah_resume_within="1")


def erase(who: Household, **wish: Any) -> None:
    """Two persons carry it out."""
    second = factories.user()
    factories.membership(who.tenant, second)
    asked = erasures.request_erasure(
        actor_of_user(who.admin, "command"), who.tenant, Wish(**wish), basis="data_subject", reason="R"
    )
    erasures.approve_erasure(actor_of_user(second, "command"), asked, asked.digest)


def erase_request(who: Household, answers: list[httpx.Response]) -> None:
    for answer in answers:
        erase(who, request_id=answer.headers["x-request-id"])


def erase_month(who: Household, answers: list[httpx.Response]) -> None:
    erase(who, month=timezone.now().date().replace(day=1))


def erase_person(who: Household, answers: list[httpx.Response]) -> None:
    erase(who, person=who.key.id)


@pytest.mark.parametrize("wanted", [erase_request, erase_month, erase_person])
def test_nothing_of_erased_content_is_left_or_given_out(
    wanted: Any, stack: Stack, client_of: Household, superuser: psycopg.Connection[Any]
) -> None:
    canary = f"canary{client_of.tenant.id.hex}"
    answers = [ask(stack, client_of, canary, stream=stream) for stream in (False, True)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert all(canary in answer.text for answer in answers)
    # The control: the walk finds it where it must lie, and its copies are given out.
    assert places_of(canary, stack, superuser) == HELD
    assert ask(stack, client_of, canary, stream=True).headers["idempotent-replayed"] == "true"
    stream = f"/v1/streams/{answers[1].headers['x-request-id']}"
    assert canary in get(stack, client_of, stream).text

    wanted(client_of, answers)

    for streams in (False, True):
        again = ask(stack, client_of, canary, stream=streams)
        assert (again.status_code, error_of(again)["code"]) == (409, "answer_not_kept")
    resumed = get(stack, client_of, stream)
    assert (resumed.status_code, error_of(resumed)["code"]) == (404, "stream_expired")
    await_gone(canary, stack, superuser)


def test_without_the_databases_triggers_copies_would_be_given_out(
    stack: Stack, client_of: Household, owner: psycopg.Connection[Any]
) -> None:
    """The negative control of what reaches the answers under idempotency keys."""
    canary = f"control{client_of.tenant.id.hex}"
    answer = ask(stack, client_of, canary, stream=False)
    owner.execute("ALTER TABLE audit_content DISABLE TRIGGER serving_forget_answers")
    try:
        erase(client_of, request_id=answer.headers["x-request-id"])
    finally:
        owner.execute("ALTER TABLE audit_content ENABLE ALWAYS TRIGGER serving_forget_answers")
    assert canary in ask(stack, client_of, canary, stream=False).text


def test_answer_that_comes_after_its_prompt_was_erased_is_erased_with_it(
    stack: Stack, client_of: Household, superuser: psycopg.Connection[Any]
) -> None:
    canary = f"late{client_of.tenant.id.hex}"
    body = json.dumps(chat(f"[[tokens=40 delay=0.1 tag={canary}]]", stream=True)).encode()
    headers = {"authorization": f"Bearer {client_of.key_text}", "idempotency-key": "late"}
    with httpx.stream("POST", f"{stack.web.url}{CHAT}", content=body, headers=headers, timeout=30) as stream:
        lines = stream.iter_lines()
        next(lines)
        erase(client_of, request_id=stream.headers["x-request-id"])
        assert "[DONE]" in "".join(lines)  # who waits for it still gets it
    again = post(stack, client_of, CHAT, body, idempotency_key="late")
    assert (again.status_code, error_of(again)["code"]) == (409, "answer_not_kept")
    with rls.tenant_scope(client_of.tenant.id):
        rows = list(Content.objects.order_by("part").values_list("part", "erased_reason", "ciphertext"))
    assert rows == [("answer", "erasure_request", None), ("prompt", "erasure_request", None)]
    await_gone(canary, stack, superuser)


def test_prompts_cached_by_engines_before_an_erasure_are_not_found_after_it(stack: Stack, client_of: Household) -> None:
    canary = f"cached{client_of.tenant.id.hex}"
    answer = ask(stack, client_of, canary, stream=False)
    first = salts(stack, canary)
    assert ask(stack, client_of, f"{canary}b", stream=False).status_code == 200
    assert salts(stack, f"{canary}b") == first  # the control: without an erasure it stays
    erase(client_of, request_id=answer.headers["x-request-id"])

    def another() -> bool:
        tag = f"{canary}{timezone.now().timestamp():.6f}".replace(".", "-")
        assert ask(stack, client_of, tag, stream=False).status_code == 200
        return salts(stack, tag) != first

    wait_until(another, "the worker to hear of it", 10)


def await_gone(canary: str, stack: Stack, superuser: psycopg.Connection[Any]) -> None:
    """Until the sites' stores are cleared, which housekeeping does."""
    deadline = time.monotonic() + 15
    while left := places_of(canary, stack, superuser):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def salts(stack: Stack, tag: str) -> set[str]:
    """Salts that the engine was given with requests whose answers have this tag."""
    lines = [json.loads(line) for line in stack.journal.read_text().splitlines()]
    bodies = [line["body"] for line in lines if f"tag={tag}]]" in str(line.get("body"))]
    return {body["cache_salt"] for body in bodies}


def test_another_tenants_content_and_keys_stay(
    stack: Stack, client_of: Household, superuser: psycopg.Connection[Any]
) -> None:
    other = stack.household()
    ask(stack, client_of, "mine0", stream=False)
    ask(stack, other, "theirs0", stream=False)
    erase_month(client_of, [])
    assert ask(stack, other, "theirs0", stream=False).headers["idempotent-replayed"] == "true"
    assert "audit_content, opened" in places_of("theirs0", stack, superuser)
    with rls.platform_scope():
        keys = dict(ContentKey.objects.values_list("tenant_id", "destroyed_at"))
    assert keys[other.tenant.id] is None
    assert keys[client_of.tenant.id] is not None


def test_every_column_of_bytes_is_known_to_the_walk(superuser: psycopg.Connection[Any]) -> None:
    rows = superuser.execute(
        "SELECT table_name || '.' || column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'bytea'"
    ).fetchall()
    assert {name for (name,) in rows} == set(BYTES)
