"""What a request without a limit reserves: little, and never less than it then uses."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasbah.gateway import estimate
from kasbah.gateway.bodies import base, chat, completion, embedding
from kasbah.gateway.estimate import Estimate
from kasbah.metering.services import LimitRecord, Limits, set_limit
from tests import factories
from tests.factories import Household
from tests.gateway.calls import CHAT, error_of, post, usage_of
from tests.gateway.calls import chat as ask
from tests.gateway.stack import Stack

CONTEXT = 32_768


def estimated(
    size: int = 100, longest: int = CONTEXT, at_once: int | None = None, default: int = 4096, **fields: Any
) -> Estimate:
    data = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    body = base.decode(chat.DECODER, json.dumps(data).encode())
    body.check(longest)
    return estimate.of(body, size, longest, at_once, default)


def told(found: Estimate) -> Any:
    """The limit that the engine is given."""
    sent = json.loads(found.body.for_engine())
    return sent.get("max_completion_tokens", sent.get("max_tokens"))


@pytest.mark.parametrize(
    ("fields", "reserved", "limit"),
    [
        ({}, 356 + 4096, 4096),
        ({"n": 2}, 356 + 2 * 4096, 4096),
        ({"max_tokens": 10}, 366, 10),
        ({"max_completion_tokens": 9000}, 9356, 9000),
        ({"max_tokens": None, "n": None}, 356 + 4096, 4096),
        ({"longest": 2048}, 2048, 2048),  # the prompt and its answer share the context
        ({"longest": 2048, "n": 3}, 356 + 3 * 2048 - 356, 2048),
        ({"longest": 2048, "max_tokens": 2048}, 2048, 2048),
        ({"at_once": 1000}, 1000, 644),
        ({"at_once": 1000, "n": 4}, 1000, 161),
        ({"at_once": 1000, "max_tokens": 2000}, 2356, 2000),  # what is named is not cut: the meter refuses it
        ({"at_once": 100}, 357, 1),
        ({"min_tokens": 5000}, 356 + 5000, 5000),
    ],
)
def test_what_is_reserved_is_what_the_engine_is_told(fields: dict[str, Any], reserved: int, limit: int) -> None:
    found = estimated(**fields)
    assert (found.prompt + found.completion, told(found)) == (reserved, limit)


def test_control_without_a_limit_the_whole_context_was_reserved() -> None:
    body = base.decode(chat.DECODER, json.dumps(ask("x")).encode())
    assert body.completion_at_most(CONTEXT) == CONTEXT > estimated().completion


def test_the_body_of_the_client_stays_as_it_was() -> None:
    body = base.decode(chat.DECODER, json.dumps(ask("x")).encode())
    estimate.of(body, 100, CONTEXT, None, 4096)
    assert body.limit() is None


def test_other_endpoints_keep_their_own_defaults() -> None:
    text = base.decode(completion.DECODER, b'{"model": "m", "prompt": ["a", "b"], "n": 2}')
    assert estimate.of(text, 100, CONTEXT, None, 4096).completion == 64
    vectors = base.decode(embedding.DECODER, b'{"model": "m", "input": ["a", "b"]}')
    assert estimate.of(vectors, 100, CONTEXT, None, 4096).completion == 0


@given(
    size=st.integers(1, 200_000),
    longest=st.integers(16, 131_072),
    n=st.integers(1, 16),
    maximum=st.none() | st.integers(1, 131_072),
    at_once=st.none() | st.integers(1, 10**6),
    part=st.floats(0, 1),
)
def test_no_request_uses_more_than_it_reserved(  # noqa: PLR0917 - hypothesis gives each by its name
    size: int, longest: int, n: int, maximum: int | None, at_once: int | None, part: float
) -> None:
    """`part` of what the prompt may be; each answer goes on until its limit or the end of the context."""
    if maximum is not None and maximum > longest:
        maximum = longest
    found = estimated(size, longest, at_once, n=n, max_tokens=maximum)
    prompt = int(min(size + base.ALLOWANCE, longest) * part)
    used = prompt + n * min(told(found), longest - prompt)
    assert used <= found.prompt + found.completion


def test_the_narrowest_limit_a_minute_is_the_most_at_once() -> None:
    records = [LimitRecord(uuid4(), "tenant", uuid4(), tokens_per_minute=number) for number in (None, 500, 90)]
    assert Limits(tuple(records)).tokens_at_once == 90
    assert Limits(tuple(records[:1])).tokens_at_once is None
    assert Limits().tokens_at_once is None


def test_a_modest_limit_admits_a_chat_without_max_tokens(stack: Stack, client_of: Household) -> None:
    tenant = client_of.tenant
    set_limit(factories.SYSTEM, tenant, scope="tenant", subject_id=tenant.id, tokens_per_minute=1000)
    first = post(stack, client_of, CHAT, ask("x [[tokens=5]]"))
    assert first.status_code == 200, first.text
    assert usage_of(client_of) == [(2, 5)]
    again = post(stack, client_of, CHAT, ask("x [[tokens=5]]"))  # but for the seven all came back, and some refilled
    assert again.status_code in (200, 429)
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 10, "while it runs it holds what it may use"
    endless = post(stack, client_of, CHAT, ask("x [[tokens=5]]", max_tokens=1500))
    assert (endless.status_code, error_of(endless)["code"]) == (400, "request_exceeds_limit")
