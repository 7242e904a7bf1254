"""Histories and parameters as SDKs send them: answers that come back whole, and nulls for what was not given."""

from __future__ import annotations

import json
from typing import Any

import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import openai.types.embedding_create_params as embedding_params
import pytest
from openai.types.chat import ParsedChatCompletionMessage

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies import base, chat, completion, embedding, tokenize

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SDK_NULLS = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "name": None, "parsed": None}


def turn_of(message: dict[str, Any]) -> dict[str, Any]:
    """What the engine is given of one message, by both endpoints that take conversations."""
    data = {"model": "m", "messages": [{"role": "user", "content": "x"}, message]}
    given = []
    for decoder in (chat.DECODER, tokenize.DECODER):
        body = base.decode(decoder, json.dumps(data).encode())
        body.check(2048)
        assert body.for_engine() == body.for_engine()
        given.append(json.loads(body.for_engine())["messages"][1])
    assert given[0] == given[1]
    turn: dict[str, Any] = given[0]
    return turn


@pytest.mark.parametrize(
    ("message", "turn"),
    [
        ({"content": None, "tool_calls": [], "reasoning": "hm"}, {"content": "", "reasoning": "hm"}),
        ({"content": None, "tool_calls": [], "reasoning_content": "hm"}, {"content": "", "reasoning": "hm"}),
        ({"reasoning_content": "hm", "reasoning": None}, {"content": "", "reasoning": "hm"}),
        ({"reasoning": "a", "reasoning_content": "b", "content": "c"}, {"content": "c", "reasoning": "a"}),
        ({"content": None}, {"content": ""}),
        ({}, {"content": ""}),
        ({"content": []}, {"content": ""}),
        ({"content": "", "tool_calls": None, **SDK_NULLS}, {"content": ""}),
        ({"content": "a", **SDK_NULLS}, {"content": "a"}),
        ({"content": None, "refusal": "no"}, {"content": "no"}),
        ({"content": None, "tool_calls": [CALL], **SDK_NULLS}, {"tool_calls": [CALL]}),
        ({"content": "", "tool_calls": [CALL]}, {"tool_calls": [CALL]}),
        ({"content": "a", "tool_calls": [CALL]}, {"content": "a", "tool_calls": [CALL]}),
        ({"content": "a", "parsed": {"x": 1}}, {"content": "a"}),
    ],
)
def test_every_turn_of_an_assistant_goes_on(message: dict[str, Any], turn: dict[str, Any]) -> None:
    assert turn_of({"role": "assistant", **message}) == {"role": "assistant", **turn}


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": []}, {"content": ""}])
def test_a_tools_empty_result_is_an_empty_text(content: dict[str, Any]) -> None:
    turn = turn_of({"role": "tool", "tool_call_id": "c", **content})
    assert turn == {"role": "tool", "tool_call_id": "c", "content": ""}


@pytest.mark.parametrize("arguments", [{}, {"arguments": None}, {"arguments": ""}])
def test_a_call_without_arguments_or_type_is_a_call(arguments: dict[str, Any]) -> None:
    call = {"id": "c", "index": 0, "type": None, "function": {"name": "f", "parsed_arguments": {}, **arguments}}
    turn = turn_of({"role": "assistant", "content": None, "tool_calls": [call]})
    assert turn["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_who_asks_says_something(role: str) -> None:
    with pytest.raises(Invalid) as raised:
        turn_of({"role": role, "content": None})
    assert raised.value.param == "messages[1].content"
    assert turn_of({"role": role, "content": "x", "name": None}) == {"role": role, "content": "x"}


def test_what_the_sdk_parsed_may_come_back() -> None:
    message = ParsedChatCompletionMessage[Any].model_validate(
        {
            "role": "assistant",
            "content": None,
            "parsed": None,
            "tool_calls": [{**CALL, "function": {**CALL["function"], "parsed_arguments": {}}}],  # type: ignore[dict-item]
        }
    )
    for sent in (message.model_dump(mode="json"), message.model_dump(mode="json", exclude_unset=True)):
        assert turn_of(sent) == {"role": "assistant", "tool_calls": [CALL]}


BODIES: list[tuple[Any, Any, dict[str, Any]]] = [
    (
        chat_params.CompletionCreateParamsBase,
        chat.DECODER,
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    ),
    (completion_params.CompletionCreateParamsBase, completion.DECODER, {"model": "m", "prompt": "x"}),
    (embedding_params.EmbeddingCreateParams, embedding.DECODER, {"model": "m", "input": "x"}),
]


@pytest.mark.parametrize(("params", "decoder", "minimal"), BODIES)
def test_every_parameter_of_the_sdk_may_be_null(params: Any, decoder: Any, minimal: dict[str, Any]) -> None:
    nulls = dict.fromkeys(params.__annotations__)
    assert len(nulls) > 4
    body = base.decode(decoder, json.dumps({**nulls, **minimal}).encode())
    body.check(2048)
    assert json.loads(body.for_engine()) == minimal


@pytest.mark.parametrize("nulls", [{"include_usage": None}, {"include_usage": None, "include_obfuscation": None}, {}])
def test_the_options_of_a_stream_may_be_null(nulls: dict[str, Any]) -> None:
    data = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "stream_options": nulls}
    body = base.decode(chat.DECODER, json.dumps(data).encode())
    body.check(2048)
    assert not body.include_usage


@pytest.mark.parametrize("field", ["functions", "function_call", "audio", "web_search_options", "moderation"])
def test_what_is_known_as_null_alone_is_refused_by_name(field: str) -> None:
    data = {"model": "m", "messages": [{"role": "user", "content": "x"}], field: [{"name": "f"}]}
    with pytest.raises(Invalid) as raised:
        base.decode(chat.DECODER, json.dumps(data).encode())
    assert (raised.value.param, raised.value.code) == (field, "unknown_field")


def test_no_tools_are_no_choice_of_tools() -> None:
    data = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    none = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    body = base.decode(chat.DECODER, json.dumps({**data, **none}).encode())
    body.check(2048)
    assert json.loads(body.for_engine()) == data
    with pytest.raises(Invalid) as raised:
        base.decode(chat.DECODER, json.dumps({**data, "tools": [], "tool_choice": "required"}).encode()).check(2048)
    assert raised.value.param == "tool_choice"
