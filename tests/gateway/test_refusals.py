"""Each row of the API's table of refusals, as a client meets it."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from kasbah.common import rls
from kasbah.metering.services import set_limit
from kasbah.residency.services.simulation import Period, simulate_policy
from kasbah.residency.simulation import Kind
from kasbah.serving.models import DeploymentGrant
from tests import factories
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, error_of, get, inference_events, jobs_of, post
from tests.gateway.stack import Stack, everything


def test_residency_denial_names_rule_and_version_and_is_final(stack: Stack) -> None:
    document = everything()
    document["rules"].append({"id": "secrets-stay", "effect": "deny", "data_classes": ["secret"], "sites": ["*"]})
    who = stack.household(document)
    response = post(stack, who, CHAT, chat("x"), kasbah_data_class="secret")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (403, "residency_denied")
    assert "rule secrets-stay" in error["message"]
    assert "version 1" in error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["kasbah-policy-version"] == "1"
    assert response.headers["kasbah-audit-receipt"]
    assert jobs_of(who) == []
    [denied] = inference_events(who)
    assert (denied["type"], denied["reason"]) == ("inference.denied", "residency_denied")
    assert denied["policy"]["rule"] == "secrets-stay"
    assert post(stack, who, CHAT, chat("x"), kasbah_data_class="public").status_code == 200


@pytest.mark.parametrize(
    ("rule", "sent", "said"),
    [
        ({"tags": ["health"]}, {"kasbah_data_tags": "health, press"}, "Without the tags it would be allowed."),
        ({"purposes": ["training"]}, {"kasbah_purpose": "training"}, "With another purpose it would be allowed."),
        (
            {"tags": ["health"]},
            {"kasbah_data_tags": "health", "kasbah_purpose": "support"},
            "the tags health and the purpose support. Without the tags it would be allowed.",
        ),
        ({"data_classes": ["internal"]}, {}, "the class internal, no tags and no purpose. Ask"),
    ],
)
def test_a_denial_names_all_that_was_asked_and_what_it_is_for(
    stack: Stack, rule: dict[str, Any], sent: dict[str, str], said: str
) -> None:
    document = everything()
    document["rules"].append({"id": "not-this", "effect": "deny", "sites": ["*"], **rule})
    response = post(stack, stack.household(document), CHAT, chat("x"), kasbah_data_class="internal", **sent)
    message = error_of(response)["message"]
    assert response.status_code == 403
    assert "rule not-this" in message
    assert "for the model mini, with the class internal" in message
    assert said in message
    for name in sent:
        assert name.replace("_", "-") in message, "the header to correct"


def test_the_simulator_counts_real_requests_exactly(stack: Stack) -> None:
    """A draft that frees secrets and stops what is public, against requests as clients made them."""
    document = everything()
    document["rules"].append({"id": "secrets-stay", "effect": "deny", "data_classes": ["secret"], "sites": ["*"]})
    who = stack.household(document)
    classes = ["secret", "secret", "public", "public", "public", "internal"]
    answers = [post(stack, who, CHAT, chat("[[tokens=1]]"), kasbah_data_class=name) for name in classes]
    assert [answer.status_code for answer in answers] == [403] * 2 + [200] * 4
    draft = everything()
    draft["rules"].append({"id": "no-public", "effect": "deny", "data_classes": ["public"], "sites": ["*"]})
    found = simulate_policy(factories.SYSTEM, who.tenant, draft, Period.of(None, None))
    assert found.summary == "would newly deny 3 requests of the last 7 days and newly allow 2"
    assert found.tally.counts[Kind.UNCHANGED_ALLOWED] == 1
    assert found.tally.unknown == {}
    denied = [answer.headers["x-request-id"] for answer in answers[2:5]]
    assert found.tally.examples[Kind.NEWLY_DENIED] == denied


def test_without_a_policy_nothing_is_allowed(stack: Stack) -> None:
    who = factories.household()
    stack.grant(who.tenant)
    response = post(stack, who, CHAT, chat("x"))
    assert (response.status_code, error_of(response)["code"]) == (403, "residency_denied")


def test_burst_limit(stack: Stack, client_of: Household) -> None:
    limit(client_of, requests_per_minute=2)
    codes = [post(stack, client_of, CHAT, chat("x [[tokens=1]]", max_tokens=1)).status_code for _ in range(2)]
    response = post(stack, client_of, CHAT, chat("x", max_tokens=1))
    assert codes == [200, 200]
    assert (response.status_code, error_of(response)["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["x-ratelimit-limit-requests"] == "2"
    assert "x-should-retry" not in response.headers
    assert get(stack, client_of, "/v1/models").status_code == 200


def test_quota_of_the_period(stack: Stack, client_of: Household) -> None:
    limit(client_of, tokens_per_period=400)
    assert post(stack, client_of, CHAT, chat("x [[tokens=10]]", max_tokens=10)).status_code == 200
    response = post(stack, client_of, CHAT, chat("x", max_tokens=390))
    assert (response.status_code, error_of(response)["code"]) == (429, "insufficient_quota")
    assert response.headers["x-should-retry"] == "false"
    assert inference_events(client_of)[-1]["reason"] == "insufficient_quota"
    assert get(stack, client_of, "/v1/models").status_code == 200


def limit(who: Household, **numbers: int) -> None:
    set_limit(factories.SYSTEM, who.tenant, scope="tenant", subject_id=who.tenant.id, **numbers)


def test_unknown_and_foreign_models_are_not_told_apart(stack: Stack, client_of: Household) -> None:
    unknown = post(stack, client_of, CHAT, {**chat("x"), "model": "other"})
    stranger = factories.household()
    foreign = post(stack, stranger, CHAT, chat("x"))
    assert unknown.status_code == foreign.status_code == 404
    assert error_of(unknown)["code"] == error_of(foreign)["code"] == "model_not_found"
    assert unknown.json()["error"]["message"].replace("other", "mini") == foreign.json()["error"]["message"]
    assert error_of(unknown)["param"] == "model"


def test_a_grant_that_is_taken_away_ends_within_a_second(stack: Stack, client_of: Household) -> None:
    import time

    assert post(stack, client_of, CHAT, chat("x")).status_code == 200
    with rls.tenant_scope(client_of.tenant.id):
        DeploymentGrant.objects.filter(tenant=client_of.tenant).delete()
    time.sleep(1)
    assert post(stack, client_of, CHAT, chat("x")).status_code == 404


BAD: list[tuple[str, Any, str | None, str]] = [
    (CHAT, b"{", None, "not valid JSON"),
    (CHAT, b"\xff", None, ""),
    (CHAT, [], None, "expected object"),
    (CHAT, {"messages": [{"role": "user", "content": "x"}]}, "model", "missing"),
    (CHAT, {"model": "mini", "messages": []}, "messages", "length"),
    (CHAT, chat("x", n="2"), "n", "expected int"),
    (CHAT, chat("x", n=17), "n", "<= 16"),
    (CHAT, chat("x", logprobs=True, top_logprobs=21), "top_logprobs", "<= 20"),
    (CHAT, chat("x", max_tokens=2049), "max_tokens", "2048"),
    (CHAT, chat("x", max_completion_tokens=0), "max_completion_tokens", ">= 1"),
    (CHAT, {"model": "mini", "messages": [{"role": "boss", "content": "x"}]}, "messages[0].role", "roles are"),
    (CHAT, {"model": "mini", "messages": [{"role": "user"}]}, "messages[0].content", "content"),
    (CHAT, chat("x", cache_salt="y"), "cache_salt", "Unknown field"),
    (CHAT, chat("x", chat_template="y"), "chat_template", "Unknown field"),
    (CHAT, chat("x", return_token_ids=True), "return_token_ids", "Unknown field"),
    (CHAT, chat("x", guided_regex="a+"), "guided_regex", "Unknown field"),
    (CHAT, chat("x", kv_transfer_params={}), "kv_transfer_params", "Unknown field"),
    (CHAT, chat("x", stream_options={"include_usage": True}), "stream_options", "stream: true"),
    ("/v1/completions", {"model": "mini", "prompt": "x", "best_of": 2}, "best_of", "best_of"),
    ("/v1/completions", {"model": "mini", "prompt": ["x", 1]}, "prompt", "prompt"),
    ("/v1/embeddings", {"model": "mini", "input": []}, "input", "length"),
    ("/v1/embeddings", {"model": "mini", "input": "x", "encoding_format": "hex"}, "encoding_format", "hex"),
    ("/tokenize", {"model": "mini"}, "prompt", "either"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]} {case[2]}")
def test_wrong_bodies_name_the_field(
    stack: Stack, module_client: Household, case: tuple[str, Any, str | None, str]
) -> None:
    path, body, param, says = case
    response = post(stack, module_client, path, body)
    error = error_of(response)
    assert response.status_code == 400
    assert error["param"] == param
    assert says in error["message"]
    assert jobs_of(module_client) == []


@pytest.fixture(scope="module")
def module_client(stack: Stack) -> Household:
    """A tenant that never gets an answer."""
    return stack.household()


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_nothing_is_fetched_on_behalf_of_a_request(stack: Stack, module_client: Household, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        part = {"type": kind, kind: {"url": url, "file_id": url, "data": url}}
        body = {"model": "mini", "messages": [{"role": "user", "content": [part]}]}
        response = post(stack, module_client, CHAT, body)
        assert (response.status_code, error_of(response)["code"]) == (400, "unsupported_content")
        with pytest.raises(TimeoutError):
            trap.accept()


def test_bodies_over_four_mib(stack: Stack, module_client: Household) -> None:
    big = b'{"model":"mini","messages":[{"role":"user","content":"' + b"x" * (4 * 1024 * 1024) + b'"}]}'
    response = post(stack, module_client, CHAT, big)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert post(stack, module_client, CHAT, big[: 4 * 1024 * 1024]).status_code == 400


def test_bodies_that_hide_their_length(stack: Stack, module_client: Household) -> None:
    pieces = (b"x" * 65536 for _ in range(100))
    response = httpx.post(
        f"{stack.web.url}{CHAT}",
        content=pieces,
        headers={"authorization": f"Bearer {module_client.key_text}"},
        timeout=30,
    )
    assert response.status_code == 413


def test_compressed_bodies_are_refused(stack: Stack, module_client: Household) -> None:
    response = post(stack, module_client, CHAT, b"x", content_encoding="gzip")
    assert (response.status_code, error_of(response)["param"]) == (400, "content-encoding")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kasbah-data-class", "top-secret"),
        ("kasbah-data-tags", "a b"),
        ("kasbah-purpose", "Two Words"),
        ("idempotency-key", "k" * 256),
    ],
)
def test_wrong_headers_are_named(stack: Stack, module_client: Household, name: str, value: str) -> None:
    response = post(stack, module_client, CHAT, chat("x"), **{name: value})
    assert (response.status_code, error_of(response)["param"]) == (400, name)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer ksb_00000000000000000000000000000000000000"]
)
def test_who_is_not_known_gets_401(stack: Stack, authorization: str) -> None:
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("POST", "/tokenize")):
        response = httpx.request(
            method, f"{stack.web.url}{path}", json=chat("x"), headers={"authorization": authorization}
        )
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"].startswith("Bearer")


def test_a_key_for_other_things_may_not_ask_models(stack: Stack) -> None:
    who = stack.household(scopes=("management",))
    response = post(stack, who, CHAT, chat("x"))
    assert (response.status_code, error_of(response)["code"]) == (403, "permission_denied")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", CHAT, "POST"), ("DELETE", "/v1/models", "GET, HEAD"), ("OPTIONS", "/tokenize", "POST")],
)
def test_wrong_methods(stack: Stack, method: str, path: str, allow: str) -> None:
    response = httpx.request(method, f"{stack.web.url}{path}")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/", "/tokenizer", "/v1/chat/completions/", "/healthz/x"])
def test_unknown_paths_are_json(stack: Stack, path: str) -> None:
    response = httpx.post(f"{stack.web.url}{path}", json={})
    assert (response.status_code, error_of(response)["code"]) == (404, "not_found")


def test_paths_cannot_write_lines_into_the_log(stack: Stack) -> None:
    address = urlsplit(stack.web.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), 5) as connection:
        connection.sendall(b"GET /v1/x%0aFORGED HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
    assert "\nFORGED" not in stack.web.log.read_text()


def test_what_the_engine_refuses_keeps_its_status(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, CHAT, chat("x [[error=400]]"))
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "messages")
    assert "input" not in error["message"]
    for name in ("kasbah-site", "kasbah-audit-receipt", "x-ratelimit-limit-requests"):
        assert response.headers[name]
    [job] = jobs_of(client_of)
    assert job.state == "failed"
    streamed = post(stack, client_of, CHAT, chat("x [[error=400]]", stream=True))
    assert (streamed.status_code, error_of(streamed)["param"]) == (400, "messages")
