"""What passes to an engine is on a list; everything else is refused, or kept back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies import base, chat, completion, embedding, tokenize

DECODERS = [chat.DECODER, completion.DECODER, embedding.DECODER, tokenize.DECODER]
MINIMAL: dict[int, dict[str, Any]] = {
    0: {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    1: {"model": "m", "prompt": "x"},
    2: {"model": "m", "input": "x"},
    3: {"model": "m", "prompt": "x"},
}
# Fields of vLLM 0.32 that a client may not set: they reach caches, templates, files, scheduling.
ENGINES_OWN = [
    "add_special_tokens", "allowed_token_ids", "bad_words", "cache_salt", "chat_template",
    "continue_final_message", "documents", "ec_transfer_params", "guided_json", "kv_transfer_params", "length_penalty",
    "logits_processors", "media_io_kwargs", "mm_processor_kwargs", "priority", "prompt_embeds", "prompt_logprobs",
    "repetition_detection", "request_id", "return_token_ids", "return_tokens_as_token_ids", "session_id",
    "skip_special_tokens", "stop_token_ids", "structured_outputs", "thinking_token_budget", "truncate_prompt_tokens",
    "use_beam_search", "vllm_xargs",
]  # fmt: skip


def decode(which: int, **fields: Any) -> Any:
    """A minimal body with more fields, decoded and checked."""
    body = base.decode(DECODERS[which], json.dumps({**MINIMAL[which], **fields}).encode())
    body.check(2048)
    return body


@pytest.mark.parametrize("field", ENGINES_OWN)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_engines_own_fields_are_refused_by_name(which: int, field: str) -> None:
    with pytest.raises(Invalid) as raised:
        decode(which, **{field: 1})
    assert (raised.value.param, raised.value.code) == (field, "unknown_field")


@given(st.text(min_size=1, max_size=20).filter(lambda name: name not in chat.ChatBody.__struct_fields__))
def test_no_unknown_field_passes(name: str) -> None:
    with pytest.raises(Invalid):
        decode(0, **{name: None})


@pytest.mark.parametrize("which", range(4))
def test_the_engine_gets_what_was_sent_and_no_defaults(which: int) -> None:
    assert json.loads(decode(which).for_engine()) == MINIMAL[which]


def test_what_means_nothing_here_is_kept_back_and_the_body_stays_as_it_was() -> None:
    body = decode(0, stream=True, stream_options={"include_usage": True}, user="u", store=True, metadata={"a": "b"})
    assert json.loads(body.for_engine()) == {**MINIMAL[0], "stream": True}
    assert body.include_usage
    assert body.streams


def test_nulls_are_as_if_not_sent() -> None:
    body = decode(0, stop=None, temperature=None, tools=None, stream_options=None)
    assert json.loads(body.for_engine()) == MINIMAL[0]


def test_a_conversation_with_tools_passes_whole() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    fields: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
            {"role": "user", "content": "x", "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "4", "tool_call_id": "c"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    }
    passed = json.loads(decode(0, **fields).for_engine())
    del fields["messages"][2]["content"]
    assert passed == {**MINIMAL[0], **fields}


@pytest.mark.parametrize(
    ("which", "fields", "param"),
    [
        (0, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (0, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (0, {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight"),
        (0, {"top_logprobs": 2}, "top_logprobs"),
        (0, {"temperature": 2.1}, "temperature"),
        (0, {"top_p": 0}, "top_p"),
        (0, {"seed": 2**63}, "seed"),
        (0, {"stop": ["x"] * 17}, "stop"),
        (0, {"logit_bias": {"x": 1}}, "logit_bias"),
        (0, {"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
        (0, {"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        (0, {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (0, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        (0, {"modalities": ["audio"]}, "modalities[0]"),
        (1, {"prompt": ["x"] * 65}, "prompt"),
        (1, {"prompt": [-1]}, "prompt[0]"),
        (1, {"suffix": "x"}, "suffix"),
        (2, {"input": ["x"] * 2049}, "input"),
        (2, {"dimensions": 0}, "dimensions"),
        (3, {"messages": [{"role": "user", "content": "x"}]}, "prompt"),
        (3, {"tools": []}, "tools"),
    ],
)
def test_limits_name_their_field(which: int, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as raised:
        decode(which, **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"1", b'{"model":"\\ud800"}', b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"model":1e999}', b"{}x"],
)
def test_broken_json_is_a_clear_refusal(data: bytes) -> None:
    for decoder in DECODERS:
        with pytest.raises(Invalid):
            base.decode(decoder, data)


def test_deep_nesting_in_a_schema_is_refused() -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    data = b'{"model":"m","messages":[{"role":"user","content":"x"}],"prediction":' + deep + b"}"
    with pytest.raises(Invalid, match="nested"):
        base.decode(chat.DECODER, data)


@pytest.mark.parametrize(
    ("which", "fields", "prompt", "completion"),
    [
        (0, {"max_tokens": 10, "n": 3}, 356, 30),
        (0, {"max_completion_tokens": 5, "max_tokens": 10}, 356, 5),
        (0, {}, 356, 2048),
        (1, {"prompt": ["a", "b"], "n": 2}, 356, 64),
        (1, {"prompt": [1, 2], "max_tokens": 7}, 356, 7),
        (2, {"input": ["a", "b"]}, 356, 0),
        (3, {}, 0, 0),
    ],
)
def test_what_a_request_may_use_at_most(which: int, fields: dict[str, Any], prompt: int, completion: int) -> None:
    body = decode(which, **fields)
    assert (body.prompt_at_most(100, 2048), body.completion_at_most(2048)) == (prompt, completion)
    assert body.prompt_at_most(10**6, 2048) <= 2048 * body.prompts()
