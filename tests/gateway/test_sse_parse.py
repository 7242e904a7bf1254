"""Streams as the parsers of well-known kinds of clients read them: none may stumble over what an event has besides."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import Household
from tests.gateway.calls import CHAT, chat, post
from tests.gateway.stack import Stack

Parsed = list[dict[str, Any]]
CASES = {
    "chat": (CHAT, chat("x [[tokens=3]]", stream=True)),
    "chat with usage": (CHAT, chat("x [[tokens=3]]", stream=True, stream_options={"include_usage": True})),
    "a long wait": (CHAT, chat("x [[tokens=3 delay=1.2]]", stream=True)),
    "several choices": (CHAT, chat("x [[tokens=3]]", stream=True, n=2)),
    "text": ("/v1/completions", {"model": "mini", "prompt": "x [[tokens=3]]", "stream": True}),
    "a failure": (CHAT, chat("x [[tokens=9 delay=0.1 stream_error=3]]", stream=True)),
}


def whole_events(text: str) -> Parsed:
    """Splits at blank lines, passes over comments, takes `data:` off the whole event and parses the rest."""
    found = []
    for event in text.split("\n\n"):
        if not event.strip() or event.startswith(":"):
            continue
        data = event.strip().removeprefix("data:").lstrip()
        if data != "[DONE]":
            found.append(json.loads(data))
    return found


def data_lines(text: str) -> Parsed:
    """Takes each line that starts with `data: `; splits as Python does, also at U+2028."""
    datas = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(data) for data in datas if data != "[DONE]"]


def lines_that_must_be_known(text: str) -> Parsed:
    """Knows blank lines, comments and data, and raises on all else."""
    found = []
    for line in text.split("\n"):
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            if name != "data":
                raise ValueError(f"unknown field {name}")
            found.append(value)
    return [json.loads(data) for data in found if data != "[DONE]"]


PARSERS = [whole_events, data_lines, lines_that_must_be_known]


@pytest.fixture(scope="module")
def texts(stack: Stack) -> dict[str, str]:
    """Each case's stream, asked once."""
    who = stack.household()
    return {name: post(stack, who, path, body).text for name, (path, body) in CASES.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parser", PARSERS)
def test_every_kind_of_parser_reads_the_same(texts: dict[str, str], case: str, parser: Callable[[str], Parsed]) -> None:
    text = texts[case]
    parsed = parser(text)
    assert parsed == data_lines(text)
    assert len(parsed) >= 3
    assert "\r" not in text
    assert text.endswith("\n\n")
    assert ("error" in parsed[-1]) == (case == "a failure")
    assert ("data: [DONE]" in text) == (case != "a failure"), "an end that looks like success is one"
    assert (": waiting" in text) == (case == "a long wait")
    asks_usage = "stream_options" in CASES[case][1]
    assert all(chunk.get("choices") for chunk in parsed if "error" not in chunk) == (not asks_usage)


@pytest.mark.parametrize("parser", [whole_events, lines_that_must_be_known])
def test_control_with_ids_such_parsers_do_fail(
    stack: Stack, client_of: Household, parser: Callable[[str], Parsed]
) -> None:
    response = post(stack, client_of, CHAT, chat("x [[tokens=2]]", stream=True), kasbah_resume_within="1")
    assert "\nid: 1-2\n" in response.text
    with pytest.raises(ValueError, match=r"unknown field id|Expecting value"):
        parser(response.text)


def test_a_repeated_stream_has_ids_as_its_own_request_asks(stack: Stack, client_of: Household) -> None:
    body = chat("x [[tokens=2]]", stream=True)
    first = post(stack, client_of, CHAT, body, idempotency_key="ids", kasbah_resume_within="1")
    plain = post(stack, client_of, CHAT, body, idempotency_key="ids")
    again = post(stack, client_of, CHAT, body, idempotency_key="ids", kasbah_resume_within="1")
    assert plain.headers["idempotent-replayed"] == again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert whole_events(plain.text) == data_lines(first.text)
