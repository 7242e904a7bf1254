"""What a client gets when all goes well: bodies, headers, records."""

from __future__ import annotations

import base64
import json
import struct

import httpx
import pytest

from inference_worker.contract.signing import Purpose, Verifier
from kasbah.audit.services import receipts
from kasbah.common import rls
from kasbah.serving.models import Worker
from tests import factories
from tests.factories import Household
from tests.gateway.calls import (
    CHAT,
    chat,
    chunks_of,
    error_of,
    events,
    get,
    inference_events,
    job_of,
    post,
    usage_of,
)
from tests.gateway.stack import CONTEXT, Stack

RATE = {f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")}


def test_a_chat_completion_carries_every_header(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("one two [[tokens=3]]"))
    body = response.json()
    assert response.status_code == 200
    assert body["choices"][0]["message"]["content"] == " t0 t1 t2"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert body["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert body["model"] == "mini"
    assert set(response.headers) >= RATE
    assert response.headers["kasbah-policy-version"] == "1"
    assert response.headers["kasbah-site"] == "north"
    assert response.headers["kasbah-model-digest"] == stack.deployment.model_version.digest
    for name, value in {
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }.items():
        assert response.headers[name] == value


def test_what_an_answer_leaves_behind(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("one two [[tokens=3]]"), kasbah_data_class="public")
    job = job_of(client_of, response)
    assert (job.state, job.prompt_tokens, job.completion_tokens, job.payload) == ("succeeded", 3, 3, None)
    assert (job.data_class, job.endpoint, job.stream) == ("public", CHAT, False)
    assert usage_of(client_of) == [(3, 3)]
    intent, outcome = inference_events(client_of)
    assert (intent["type"], intent["outcome"]) == ("inference.intent", "pending")
    assert (outcome["type"], outcome["outcome"]) == ("inference.outcome", "success")
    assert outcome["intent"] == intent["id"]
    assert outcome["tokens"] == {"prompt": 3, "completion": 3, "exact": True}
    assert intent["request_id"] == outcome["request_id"] == response.headers["x-request-id"]
    assert intent["policy"]["rule"] == "all"
    assert "one two" not in json.dumps([intent, outcome])


def test_the_workers_receipt_is_kept_and_holds(stack: Stack, client_of: Household) -> None:
    job = job_of(client_of, post(stack, client_of, CHAT, chat("x [[tokens=2]]")))
    with rls.platform_scope():
        worker = Worker.objects.get(pk=job.worker_id)
    claims = Verifier.from_raw(bytes(worker.public_key)).verify(Purpose.RECEIPT, job.receipt)
    assert claims["job"] == str(job.id)
    assert claims["site"] == str(stack.places["north"].site.id)
    assert claims["model_digest"] == stack.deployment.model_version.digest
    assert (claims["prompt_tokens"], claims["completion_tokens"]) == (2, 2)


def test_the_audit_receipt_promises_the_intent(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("x"))
    key = receipts.signer().public.public_bytes_raw()
    promise = Verifier.from_raw(key).verify(Purpose.AUDIT, response.headers["kasbah-audit-receipt"])
    intent = inference_events(client_of)[0]
    assert promise["event"] == intent["id"]
    assert promise["origin"] == f"test/audit/{client_of.tenant.id}"


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_and_its_usage(stack: Stack, client_of: Household, include_usage: bool) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": include_usage}}
    response = post(stack, client_of, CHAT, chat("one two [[tokens=4]]", **fields))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert set(response.headers) >= RATE | {"kasbah-site", "kasbah-policy-version", "kasbah-audit-receipt"}
    chunks = chunks_of(response)
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{response.headers['x-request-id']}"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    content = chunks[:-1] if include_usage else chunks
    assert content[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in content) == " t0 t1 t2 t3"
    if include_usage:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        assert chunks[-1]["created"] == chunks[0]["created"]
        assert all(chunk["usage"] is None for chunk in content)
    else:
        assert not any("usage" in chunk for chunk in chunks)
    assert usage_of(client_of) == [(3, 4)]


def test_events_are_numbered_by_attempt_and_entry(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("x [[tokens=3]]", stream=True), kasbah_resume_within="1")
    ids = [event["id"] for event in events(iter(response.text.split("\n"))) if "id" in event]
    assert ids == ["1-1", "1-2", "1-3", "1-4"]


def test_text_completions(stack: Stack, client_of: Household) -> None:
    body = {"model": "mini", "prompt": "x [[tokens=2]]"}
    response = post(stack, client_of, "/v1/completions", body)
    assert response.json()["choices"][0]["text"] == " t0 t1"
    assert response.json()["id"] == f"cmpl-{response.headers['x-request-id']}"
    streamed = chunks_of(post(stack, client_of, "/v1/completions", {**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == " t0 t1"


def test_embeddings_as_numbers_and_as_base64(stack: Stack, client_of: Household) -> None:
    body = {"model": "mini", "input": ["abcd", "ef"]}
    numbers = post(stack, client_of, "/v1/embeddings", body).json()
    encoded = post(stack, client_of, "/v1/embeddings", {**body, "encoding_format": "base64"}).json()
    for plain, packed in zip(numbers["data"], encoded["data"], strict=True):
        values = struct.unpack(f"<{len(plain['embedding'])}f", base64.b64decode(packed["embedding"]))
        assert values == pytest.approx(plain["embedding"])
    assert usage_of(client_of) == [(2, 0), (2, 0)]


def test_tokenize_is_decided_and_recorded_like_any_request(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, "/tokenize", {"model": "mini", "prompt": "one two three"})
    assert response.json()["count"] == 3
    assert [event["type"] for event in inference_events(client_of)] == ["inference.intent", "inference.outcome"]


def test_models_are_those_of_the_key(stack: Stack, client_of: Household) -> None:
    listed = get(stack, client_of, "/v1/models").json()
    assert listed["object"] == "list"
    [model] = listed["data"]
    assert model == get(stack, client_of, "/v1/models/mini").json()
    assert set(model) == {"id", "object", "created", "owned_by", "max_model_len"}
    assert (model["id"], model["object"], model["owned_by"]) == ("mini", "model", "tests")
    assert model["max_model_len"] == CONTEXT
    stranger = factories.household()
    assert get(stack, stranger, "/v1/models").json()["data"] == []
    assert error_of(get(stack, stranger, "/v1/models/mini"))["code"] == "model_not_found"


def test_headers_that_other_clients_send_are_ignored(stack: Stack, client_of: Household) -> None:
    extra = {"OpenAI-Organization": "org-x", "OpenAI-Project": "p", "x-stainless-retry-count": "1", "x-request-id": "y"}
    response = httpx.post(
        f"{stack.web.url}{CHAT}",
        json=chat("x [[tokens=1]]", store=True, metadata={"a": "b"}, user="u", service_tier="auto"),
        headers={"authorization": f"bearer {client_of.key_text}", **extra},
        timeout=30,
    )
    assert response.status_code == 200
    assert response.headers["x-request-id"] != "y"


def test_the_engine_gets_what_it_needs_and_nothing_else(stack: Stack, client_of: Household) -> None:
    other = stack.household()
    for who in (client_of, other):
        body = chat("only-this [[tokens=1]]", temperature=0, user="u", store=False, stop=["x"])
        assert post(stack, who, CHAT, body).status_code == 200
    lines = [json.loads(line) for line in stack.journal.read_text().splitlines()]
    first, second = (
        line["body"] for line in lines if line["event"] == "start" and "only-this" in json.dumps(line["body"])
    )
    assert set(first) == {
        "model", "messages", "temperature", "stop", "stream", "cache_salt", "max_completion_tokens",
    }  # fmt: skip
    assert first["cache_salt"] != second["cache_salt"]


def test_default_data_class_is_the_keys_then_the_projects_then_the_strictest(stack: Stack) -> None:
    who = stack.household()
    assert job_of(who, post(stack, who, CHAT, chat("x"))).data_class == "internal"  # the factory's project says so
    _, text = factories.api_key(who.project, default_data_class="confidential")
    strict = factories.project(who.tenant, default_data_class="")
    _, bare = factories.api_key(strict)
    for key, expected in ((text, "confidential"), (bare, "secret")):
        answer = httpx.post(
            f"{stack.web.url}{CHAT}", json=chat("x"), headers={"authorization": f"Bearer {key}"}, timeout=30
        )
        assert job_of(who, answer).data_class == expected


def test_no_prompt_answer_or_key_is_in_a_log(stack: Stack, client_of: Household) -> None:
    secret = "zebra-in-pyjamas"
    post(stack, client_of, CHAT, chat(f"{secret} [[tokens=2 tag={secret}]]"))
    post(stack, client_of, f"{CHAT}?{secret}", chat(secret, nonsense=secret))
    log = stack.web.log.read_text()
    assert CHAT in log, "the access log is missing"
    assert secret not in log
    assert client_of.key_text not in log
    assert secret not in (stack.home / "worker-north.log").read_text()
