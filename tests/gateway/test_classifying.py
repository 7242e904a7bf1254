"""The classifier on the way of a request: what it finds decides, is told and is recorded, and no text ever is."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from kasbah.common.env import SettingInvalid
from kasbah.common.errors import Unavailable
from kasbah.gateway.bodies.chat import ChatBody
from kasbah.gateway.classifying import SHORT, Classifying, own_detector
from kasbah.residency.services.classification import look
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, error_of, inference_events, jobs_of, post
from tests.gateway.stack import Stack

CLASSIFIER = {"detect": ["email", "iban"], "tags": ["personal"], "at_least": "confidential"}
FOR_PUBLIC = {"id": "public", "effect": "allow", "data_classes": ["public"], "models": ["*"], "sites": ["*"]}
FOR_PERSONAL = FOR_PUBLIC | {"id": "personal", "data_classes": ["confidential"], "tags": ["personal"]}
ADDRESS = "ada@example.org"


def policy(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"version": 1, "rules": list(rules), **fields}


@pytest.fixture(scope="module")
def strict(stack: Stack) -> Household:
    """A tenant without a place for personal data."""
    return stack.household(policy(FOR_PUBLIC, classifier=CLASSIFIER))


def test_what_is_found_is_denied_whatever_the_request_says_of_itself(stack: Stack, strict: Household) -> None:
    text = f"Write to {ADDRESS} about FR76 3000 6000 0112 3456 7890 189"
    response = post(stack, strict, CHAT, chat(text), kasbah_data_class="public")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (403, "residency_denied")
    assert "take out what was found in the text: email 1, iban 1" in error["message"]
    assert response.headers["kasbah-data-class"] == "confidential"
    assert "It is denied as it was raised (confidential)." in error["message"]
    denied = inference_events(strict)[-1]
    assert denied["details"]["denied_as"] == ["raised"]
    assert denied["details"]["classified"] == "email 1, iban 1"
    assert (denied["details"]["data_class"], denied["details"]["tags"]) == ("confidential", ["personal"])
    assert ADDRESS not in str(denied)
    assert ADDRESS not in error["message"]
    assert ADDRESS not in stack.web.log.read_text()
    # The control: without a classifier the same request is answered.
    lax = stack.household(policy(FOR_PUBLIC))
    assert post(stack, lax, CHAT, chat(text), kasbah_data_class="public").status_code == 200


def test_what_has_nothing_in_it_goes_as_it_is(stack: Stack, strict: Household) -> None:
    response = post(stack, strict, CHAT, chat("x [[tokens=1]]"), kasbah_data_class="public")
    assert (response.status_code, response.headers["kasbah-data-class"]) == (200, "public")
    assert "classified" not in inference_events(strict)[-2]["details"]


def test_personal_data_goes_where_it_may(stack: Stack) -> None:
    who = stack.household(policy(FOR_PUBLIC, FOR_PERSONAL, classifier=CLASSIFIER))
    response = post(stack, who, CHAT, chat(f"{ADDRESS} [[tokens=1]]"), kasbah_data_class="public")
    assert (response.status_code, response.headers["kasbah-data-class"]) == (200, "confidential")
    assert [job.data_class for job in jobs_of(who)] == ["confidential"]
    intent = inference_events(who)[0]
    assert (intent["type"], intent["details"]["classified"]) == ("inference.intent", "email 1")
    assert intent["policy"]["rule"] == "personal"


def test_what_is_found_opens_nothing_that_was_denied(stack: Stack) -> None:
    """A policy may allow a stricter class where it denies a looser one; the refusal and the event say which it was."""
    who = stack.household(policy(FOR_PERSONAL, classifier=CLASSIFIER))
    response = post(stack, who, CHAT, chat(ADDRESS), kasbah_data_class="public")
    assert (response.status_code, error_of(response)["code"]) == (403, "residency_denied")
    assert "It is denied as it was declared (public)." in error_of(response)["message"]
    denied = inference_events(who)[-1]
    assert (denied["details"]["denied_as"], denied["details"]["classified"]) == (["declared"], "email 1")
    assert denied["details"]["excluded"][0].endswith(" default_deny declared")
    assert jobs_of(who) == []
    # The control: declared to be what it is, it may be processed.
    declared = post(stack, who, CHAT, chat("x"), kasbah_data_class="confidential", kasbah_data_tags="personal")
    assert declared.status_code == 200


HIDDEN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": ADDRESS}]}]}),
    (CHAT, {"messages": [{"role": "tool", "tool_call_id": "1", "content": json.dumps({"to": ADDRESS})}]}),
    (CHAT, {"messages": [{"role": "user", "content": "ａda＠example．org"}]}),  # noqa: RUF001
    (CHAT, chat("x", tools=[{"type": "function", "function": {"name": "f", "description": ADDRESS}}])),
    ("/v1/completions", {"prompt": ["x", ADDRESS]}),
    ("/v1/embeddings", {"input": ADDRESS}),
    ("/tokenize", {"prompt": ADDRESS}),
]


@pytest.mark.parametrize("number", range(len(HIDDEN)))
def test_every_field_and_path_is_looked_through(stack: Stack, strict: Household, number: int) -> None:
    path, body = HIDDEN[number]
    response = post(stack, strict, path, {"model": "mini", **body}, kasbah_data_class="public")
    assert (response.status_code, error_of(response)["code"]) == (403, "residency_denied")
    assert "email 1" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", {"prompt": [1, 2]}), ("/v1/embeddings", {"input": [[1], [2]]})]
)
def test_token_ids_cannot_be_looked_through(stack: Stack, strict: Household, path: str, body: dict[str, Any]) -> None:
    response = post(stack, strict, path, {"model": "mini", **body}, kasbah_data_class="public")
    assert response.status_code == 403
    assert "unread 1 (unread: it is too long to look through, or sent as token ids)" in error_of(response)["message"]


def test_a_text_that_is_too_long_counts_as_one_with_something_in_it(stack: Stack, strict: Household) -> None:
    response = post(stack, strict, CHAT, chat("x " * 600_000), kasbah_data_class="public")
    assert (response.status_code, error_of(response)["code"]) == (403, "residency_denied")
    assert inference_events(strict)[-1]["details"]["classified"] == "unread 1"


# --- an organisation's own detector


def keywords(text: str) -> Mapping[str, int]:
    """A detector as an organisation might write it: the names of its secret projects. It may fail."""
    if "impossible" in text:
        raise ValueError(text)
    return {"project-name": text.lower().count("project falcon")}


@pytest.mark.slow
def test_an_own_detector_is_asked_too_and_denies_when_it_fails(stack: Stack, strict: Household) -> None:
    web = stack.start_web("own", KASBAH_CLASSIFIER="tests.gateway.test_classifying.keywords")
    first, stack.web = stack.web, web
    try:
        found = post(stack, strict, CHAT, chat("The launch of Project Falcon"), kasbah_data_class="public")
        failed = post(stack, strict, CHAT, chat("impossible words"), kasbah_data_class="public")
    finally:
        stack.web = first
    assert found.status_code == 403
    assert "project-name 1" in error_of(found)["message"]
    assert (failed.status_code, error_of(failed)["code"]) == (503, "classifier_failed")
    assert failed.headers["retry-after"]
    assert "impossible words" not in web.log.read_text()
    assert "ValueError" in web.log.read_text()


def body(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


async def test_what_an_own_detector_finds_is_added() -> None:
    classifying = Classifying(lambda text: {"badge": text.count("B-"), "email": 1, "nothing": 0})
    assert await classifying.look(body(f"{ADDRESS} B-1 B-2"), ["email"]) == {"email": 2, "badge": 2}
    classifying.close()


@pytest.mark.parametrize("answer", [{"Not A Kind": 1}, {"x": -1}, {"x": "1"}, {"x": True}, None, ["x"]])
async def test_an_own_detector_that_answers_nonsense_denies(answer: Any) -> None:
    classifying = Classifying(lambda _: answer)
    with pytest.raises(Unavailable) as caught:
        await classifying.look(body("x"), ["email"])
    assert caught.value.code == "classifier_failed"
    classifying.close()


async def test_a_detector_that_takes_too_long_denies() -> None:
    goes_on = threading.Event()
    classifying = Classifying(lambda _: {"x": int(goes_on.wait(10))}, patience=0.05)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await classifying.look(body("x"), ["email"])
    assert time.monotonic() - started < 5
    goes_on.set()
    classifying.close()


async def test_long_texts_are_looked_through_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noted(*given: Any) -> dict[str, int]:
        threads.append(threading.current_thread().name)
        return look(*given)

    monkeypatch.setattr("kasbah.gateway.classifying.look", noted)
    classifying = Classifying(None)
    assert await classifying.look(body(ADDRESS), ["email"]) == {"email": 1}
    assert await classifying.look(body("x" * SHORT + " " + ADDRESS), ["email"]) == {"email": 1}
    assert threads[0] == threading.main_thread().name
    assert threads[1].startswith("classifying")
    classifying.close()


async def test_the_loop_goes_on_while_a_detector_works() -> None:
    def slowly(_: str) -> dict[str, int]:
        time.sleep(0.3)
        return {"x": 1}

    classifying = Classifying(slowly)
    looking, ticks = asyncio.create_task(classifying.look(body("x"), ["email"])), 0
    while not looking.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert await looking == {"x": 1}
    assert ticks > 10
    classifying.close()


def test_a_setting_that_names_nothing_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_detector() is None
    monkeypatch.setenv("KASBAH_CLASSIFIER", "tests.gateway.test_classifying.keywords")
    found = own_detector()
    assert found is not None
    assert found("Project Falcon") == {"project-name": 1}
    monkeypatch.setenv("KASBAH_CLASSIFIER", "tests.gateway.test_classifying.absent")
    with pytest.raises(SettingInvalid, match=r"KASBAH_CLASSIFIER.*absent"):
        own_detector()


async def test_a_detector_of_ones_own_reads_the_parts_of_a_message_as_lines() -> None:
    seen: list[str] = []
    classifying = Classifying(lambda text: seen.append(text) or {})  # type: ignore[func-returns-value]
    parts = [{"type": "text", "text": "Project"}, {"type": "text", "text": "Falcon"}]
    await classifying.look(json.dumps({"content": parts}).encode(), ["email"])
    assert "Project\nFalcon" in seen[0]
    classifying.close()


async def test_a_number_in_a_schema_is_looked_at() -> None:
    classifying = Classifying(None)
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"x": {"const": 4111111111111111}}}},
    }
    data = msgspec.json.decode(json.dumps(chat("x", tools=[tool])), type=ChatBody)
    assert await classifying.look(data.for_engine(), ["payment-card"]) == {"payment-card": 1}
    classifying.close()
