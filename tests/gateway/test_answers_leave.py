"""Through the whole platform: an engine's private fields, flags and paths reach no client, at no endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import Household
from tests.fakes.engine import OWN, OWN_OF_CHOICE
from tests.gateway.calls import CHAT, chat, error_of, jobs_of, post
from tests.gateway.stack import Stack

PRIVATE = [*OWN, *OWN_OF_CHOICE, "citations", "10.0.0.7"]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, chat("x [[tokens=3]]")),
    (CHAT, chat("x [[tokens=3]]", stream=True, n=2, stream_options={"include_usage": True})),
    ("/v1/completions", {"model": "mini", "prompt": "x [[tokens=3]]"}),
    ("/v1/completions", {"model": "mini", "prompt": "x [[tokens=3]]", "stream": True}),
    ("/v1/embeddings", {"model": "mini", "input": ["x"]}),
    ("/v1/embeddings", {"model": "mini", "input": "x", "encoding_format": "base64"}),
    ("/tokenize", {"model": "mini", "prompt": "x"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_only_documented_fields_reach_the_client(
    stack: Stack, client_of: Household, path: str, body: dict[str, Any]
) -> None:
    response = post(stack, client_of, path, body)
    assert response.status_code == 200
    assert len(response.content) > 50
    assert [name for name in PRIVATE if name in response.text] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ("tools", ("unsupported_tools", "tools")),
        ("path", ("invalid_request", None)),
        ("endpoint", ("unsupported_endpoint", "model")),
    ],
)
def test_a_refusal_is_in_words_of_the_client_and_final(
    stack: Stack, client_of: Household, refusal: str, expected: tuple[str, str | None], stream: bool
) -> None:
    response = post(stack, client_of, CHAT, chat(f"x [[refuse={refusal}]]", stream=stream))
    error = error_of(response)
    assert response.status_code == 400
    assert (error["code"], error["param"]) == expected
    assert not any(piece in response.text for piece in ("--", "/srv", "cache_salt", "API"))
    [job] = jobs_of(client_of)
    assert (job.attempt, job.state) == (1, "failed")


def test_a_model_that_generates_says_that_it_makes_no_embeddings(stack: Stack, client_of: Household) -> None:
    response = post(stack, client_of, "/v1/embeddings", {"model": "mini", "input": "x [[refuse=endpoint]]"})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_endpoint", "model")
    assert "makes no embeddings" in error["message"]
    assert "/v1/models" in error["message"]
