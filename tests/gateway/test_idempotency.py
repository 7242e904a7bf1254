"""`Idempotency-Key`: one job and one answer for the same key and body, an error for another body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from kasbah.common import rls
from kasbah.serving.models import IdempotencyKey
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, error_of, jobs_of, post, usage_of
from tests.gateway.stack import Stack, everything

KEYS, AT_ONCE = 200, 5


async def many(stack: Stack, who: Household, requests: list[tuple[str, dict[str, Any]]]) -> list[httpx.Response]:
    """`requests` (key, body), fifty at a time; those of one key stand together and so run together."""
    turn = asyncio.Semaphore(50)
    async with httpx.AsyncClient(base_url=stack.web.url, timeout=60) as client:

        async def ask(key: str, body: dict[str, Any]) -> httpx.Response:
            async with turn:
                headers = {"authorization": f"Bearer {who.key_text}", "idempotency-key": key}
                return await client.post(CHAT, json=body, headers=headers)

        return await asyncio.gather(*(ask(key, body) for key, body in requests))


@pytest.mark.slow
async def test_two_hundred_keys_five_times_at_once(stack: Stack, client_of: Household) -> None:
    requests = [(f"key-{i}", chat(f"{i} [[tokens=2 tag=k{i}-]]")) for i in range(KEYS) for _ in range(AT_ONCE)]
    answers = await many(stack, client_of, requests)
    assert {answer.status_code for answer in answers} == {200}
    for i in range(KEYS):
        same = answers[i * AT_ONCE : (i + 1) * AT_ONCE]
        assert len({answer.content for answer in same}) == 1
        assert same[0].json()["choices"][0]["message"]["content"] == f" k{i}-0 k{i}-1"
        assert sum("idempotent-replayed" not in answer.headers for answer in same) == 1
        assert len({answer.headers["x-request-id"] for answer in same}) == AT_ONCE
    jobs = await asyncio.to_thread(jobs_of, client_of)
    assert len(jobs) == KEYS
    assert {job.state for job in jobs} == {"succeeded"}
    assert len(await asyncio.to_thread(usage_of, client_of)) == KEYS


async def test_without_keys_each_request_is_a_job(stack: Stack, client_of: Household) -> None:
    """The control: the count above is the keys' doing."""
    await many(stack, client_of, [("", chat("x [[tokens=1]]")) for _ in range(10)])
    assert len(await asyncio.to_thread(jobs_of, client_of)) == 10


def test_another_body_under_the_same_key(stack: Stack, client_of: Household) -> None:
    assert post(stack, client_of, CHAT, chat("a"), idempotency_key="k").status_code == 200
    other = post(stack, client_of, CHAT, chat("b"), idempotency_key="k")
    assert (other.status_code, error_of(other)["code"]) == (422, "idempotency_mismatch")
    assert error_of(other)["param"] == "idempotency-key"
    assert len(jobs_of(client_of)) == 1


@pytest.mark.parametrize(
    "header", [{"kasbah_data_class": "secret"}, {"kasbah_data_tags": "health"}, {"kasbah_purpose": "research"}]
)
def test_the_same_body_that_says_something_else_of_itself_is_another_request(
    stack: Stack, client_of: Household, header: dict[str, str]
) -> None:
    """An answer that was given to a request as internal is none to the same words as secret."""
    body, key = chat("x [[tokens=1]]"), {"idempotency_key": "k"}
    said = {"kasbah_data_class": "internal", "kasbah_data_tags": "a, b", **key}
    assert post(stack, client_of, CHAT, body, **said).status_code == 200
    again = post(stack, client_of, CHAT, body, **said)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    response = post(stack, client_of, CHAT, body, **said | header)
    assert (response.status_code, error_of(response)["param"]) == (422, "idempotency-key")


def test_a_key_belongs_to_one_api_key(stack: Stack, client_of: Household) -> None:
    stranger = stack.household()
    first = post(stack, client_of, CHAT, chat("a"), idempotency_key="shared")
    second = post(stack, stranger, CHAT, chat("a"), idempotency_key="shared")
    assert first.status_code == second.status_code == 200
    assert first.json()["id"] != second.json()["id"]
    assert len(jobs_of(stranger)) == 1


def test_a_stream_is_given_again_byte_for_byte(stack: Stack, client_of: Household) -> None:
    body = chat("x [[tokens=5 delay=0.02]]", stream=True, stream_options={"include_usage": True})
    first = post(stack, client_of, CHAT, body, idempotency_key="s")
    again = post(stack, client_of, CHAT, body, idempotency_key="s")
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert again.headers["idempotent-replayed"] == "true"
    for name in ("kasbah-site", "kasbah-policy-version", "kasbah-model-digest", "kasbah-audit-receipt"):
        assert first.headers[name] == again.headers[name]
    assert len(jobs_of(client_of)) == 1


def test_a_failed_request_leaves_its_key_free(stack: Stack, client_of: Household) -> None:
    body = chat("x [[error=400]]")
    for _ in range(2):
        assert post(stack, client_of, CHAT, body, idempotency_key="f").status_code == 400
    assert [job.state for job in jobs_of(client_of)] == ["failed", "failed"]


def test_the_kept_answer_lies_sealed(stack: Stack, client_of: Household) -> None:
    post(stack, client_of, CHAT, chat("x [[tokens=3 tag=secret]]"), idempotency_key="k-secret")
    with rls.tenant_scope(client_of.tenant.id):
        row = IdempotencyKey.objects.get(tenant=client_of.tenant)
    assert row.status == 200
    stored = bytes(row.response_sealed or b"") + bytes(row.key_digest) + bytes(row.body_digest)
    assert len(stored) > 500
    assert b"secret" not in stored


@pytest.mark.parametrize("content", ["none", "commitment"])
def test_where_content_may_not_be_kept_the_key_still_counts(stack: Stack, content: str) -> None:
    who = stack.household({**everything(), "content": {"internal": content}, "retention": {}})
    assert post(stack, who, CHAT, chat("x"), idempotency_key="k").status_code == 200
    again = post(stack, who, CHAT, chat("x"), idempotency_key="k")
    assert (again.status_code, error_of(again)["code"]) == (409, "answer_not_kept")
    assert again.headers["x-should-retry"] == "false"
    with rls.tenant_scope(who.tenant.id):
        assert IdempotencyKey.objects.get(tenant=who.tenant).response_sealed is None
    assert len(jobs_of(who)) == 1
    assert json.dumps(post(stack, who, CHAT, chat("y"), idempotency_key="k").status_code) == "422"
