"""An engine's complaints in the words of those who asked: no flag, path, module or traceback leaves."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from inference_worker.stream import failures
from inference_worker.stream.chunks import EngineError
from inference_worker.stream.request import CHAT, COMPLETIONS, EMBEDDINGS, EngineRequest

# As vLLM and what it calls word them, with the pieces that must not leave.
INSIDES = [
    ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', "--"),
    ('tool_choice="required" requires --tool-call-parser to be set', "--tool"),
    ("Set max_logprobs (--max-logprobs) to at least 30.", "--max"),
    ("You must set `--enable-prompt-embeds` to input `prompt_embeds`.", "--enable"),
    ("Cannot open /srv/models/abc/tokenizer.json", "/srv"),
    ("cannot open ~/models/x", "~/"),
    ("C:\\models\\x is missing", "C:"),
    ("Please set VLLM_ATTENTION_BACKEND to use this.", "VLLM"),
    ("Unset HF_HUB_OFFLINE.", "HF_"),
    ('Traceback (most recent call last):\n  File "x.py", line 3, in <module>\nValueError: no', "Traceback"),
    ("ValueError: something", "ValueError"),
    ("'NoneType' object has no attribute 'text'", "NoneType"),
    ("vllm.v1.engine.core failed", "vllm"),
    ("see https://docs.vllm.ai/en/latest", "https"),
    ("xgrammar could not compile the grammar", "grammar"),
    ("<transformers.Tokenizer object at 0x7f3a>", "0x7f"),
    ("jinja2.exceptions.UndefinedError: 'dict object' has no attribute", "jinja"),
    ("kv_transfer_params is not allowed with engine role", "kv_transfer"),
    ("cache_salt must be a string", "cache_salt"),
    ("RuntimeError: CUDA error: device-side assert", "CUDA"),
    ("connect to tcp://10.0.0.7:5555 failed", "10.0.0.7"),
    ("The tokenizer in /opt/x; set trust_remote_code=True", "trust_remote"),
    ("The model `/models/4f2a` does not exist", "/models"),
]
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
    " if the tokenizer does not define one."
)
PROSE = [
    "This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens.",
    "temperature must be non-negative, got -1.0.",
    "top_p must be in (0, 1], got 0.0.",
    "min_tokens must be less than or equal to max_tokens=5, got 9.",
    "Input should be a valid string",
]


def error(message: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}).encode()


def asked(path: str = CHAT, **fields: Any) -> EngineRequest:
    return EngineRequest(path, b"", False, {"model": "m", "messages": [], "cache_salt": "s", **fields})


@pytest.mark.parametrize(("message", "piece"), INSIDES)
@pytest.mark.parametrize("param", [None, "messages", "body.messages[0].content", "cache_salt"])
def test_nothing_of_the_engines_insides_leaves(message: str, piece: str, param: str | None) -> None:
    assert piece in message
    given = [
        failures.of_answer(400, error(message, param), asked()),
        failures.of_answer(422, error(message, param), asked()),
        failures.of_error(EngineError(message, "BadRequestError", param, 400), asked()),
    ]
    for failure in given:
        assert piece not in failure.message
        assert message not in failure.message
        assert failure.message.endswith(".")
        assert failure.param in {None, "messages", "messages[0].content", "tools"}
        assert not failure.retry


@pytest.mark.parametrize(("message", "piece"), INSIDES)
def test_control_without_the_filter_they_do_leave(message: str, piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_MEANINGS", ())
    monkeypatch.setattr(failures, "_is_prose", lambda message, fields: True)
    assert piece in failures.of_answer(400, error(message), asked()).message


@pytest.mark.parametrize("message", PROSE)
def test_what_helps_the_client_is_told(message: str) -> None:
    assert failures.of_answer(400, error(message), asked()).message == message


def test_the_fields_of_the_request_may_be_named_and_no_others() -> None:
    message = "my_field is wrong"
    assert failures.of_answer(400, error(message), asked(my_field=1)).message == message
    assert "my_field" not in failures.of_answer(400, error(message), asked()).message


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (INSIDES[0][0], "unsupported_tools", "tools"),
        (INSIDES[1][0], "unsupported_tools", "tools"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "invalid_request", "messages"),
        (NO_TEMPLATE, "unsupported_endpoint", "messages"),
    ],
)
def test_what_an_operator_is_told_is_said_in_words_of_the_client(message: str, code: str, param: str) -> None:
    failure = failures.of_answer(400, error(message), asked())
    assert (failure.status, failure.code, failure.param) == (400, code, param)
    assert "--" not in failure.message


@pytest.mark.parametrize(
    ("path", "status", "body", "expected"),
    [
        (EMBEDDINGS, 404, b'{"detail":"Not Found"}', failures.NO_EMBEDDINGS),
        (EMBEDDINGS, 501, error("The model does not support Embeddings API"), failures.NO_EMBEDDINGS),
        (CHAT, 404, error("Not Found"), failures.NO_TEXT),
        (COMPLETIONS, 501, error("The model does not support Completions API"), failures.NO_TEXT),
        (CHAT, 501, error("not done yet"), failures.ENGINE_FAILED),
        (CHAT, 500, error("insides at /srv/x"), failures.ENGINE_FAILED),
        (CHAT, 500, b"not json", failures.ENGINE_FAILED),
    ],
)
def test_a_model_of_another_kind_says_so(path: str, status: int, body: bytes, expected: failures.Failure) -> None:
    assert failures.of_answer(status, body, asked(path)) == expected


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (COMPLETIONS, "prompt"), (EMBEDDINGS, "input")])
def test_a_prompt_that_is_too_long_names_its_field(path: str, param: str) -> None:
    failure = failures.of_answer(400, error(PROSE[0], "input_tokens"), asked(path))
    assert (failure.code, failure.param, failure.message) == ("context_length_exceeded", param, PROSE[0])


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"error": "text"}', b'{"error": {"message": 1}}', b"\xff"])
def test_any_other_answer_is_a_refusal_without_words(body: bytes) -> None:
    failure = failures.of_answer(400, body, asked())
    assert (failure.status, failure.code, failure.param) == (400, "invalid_request", None)
    assert failure.message == "The model cannot take this request (HTTP 400)."


def test_every_failure_of_ours_is_prose() -> None:
    for failure in vars(failures).values():
        if isinstance(failure, failures.Failure):
            assert "--" not in failure.message
            assert msgspec.json.encode(failure)
