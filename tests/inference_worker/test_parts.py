"""Parts that are easier seen alone: flags, chunks, counts, failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_worker.contract.frames import Data, Role
from inference_worker.contract.messages import Assigned, EngineSettings, Payload, Usage
from inference_worker.engine import flags
from inference_worker.stream import chunks, failures, request


def assigned(**engine: Any) -> Assigned:
    return Assigned(deployment="d", name="demo", model_digest="0", manifest=[], engine=EngineSettings(**engine))


def test_flags_of_a_deployment() -> None:
    settings = {"max_model_len": 4096, "extra": ["--quantization", "fp8", "--enable-prefix-caching", "--seed=7"]}
    arguments = flags.arguments(assigned(**settings), Path("/models/x"), Path("/run/s"), gpu=True)
    assert {"--model=/models/x", "--uds=/run/s", "--max-model-len=4096", "--served-model-name=demo"} <= set(arguments)
    assert arguments[-3:] == ["--quantization=fp8", "--enable-prefix-caching", "--seed=7"]
    assert "--enforce-eager" not in arguments
    assert "--enforce-eager" in flags.arguments(assigned(), Path("/m"), Path("/s"), gpu=False)


@pytest.mark.parametrize(
    "extra",
    [
        ["--trust-remote-code"], ["--host", "0.0.0.0"], ["--port=80"], ["--api-key=x"], ["--middleware=os.system"],
        ["--chat-template", "x"], ["--tool-parser-plugin=/x.py"], ["--config=/x"], ["--enable-log-requests"],
        ["--lora-modules=a=/b"], ["--load-format=pt"], ["--hf-token=x"], ["--uds=/x"], ["demo"], ["-tp", "2"],
        ["--quantization"], ["--quantization", "../x"], ["--quantization=a/b"], ["--seed=-1"], ["--enforce-eager=1"],
        ["--reasoning-parser", "--trust-remote-code"], ["--gpu-memory-utilization=1.5"], ["--quantization=fp8\n"],
    ],
)  # fmt: skip
def test_flags_that_no_deployment_may_set(extra: list[str]) -> None:
    with pytest.raises(flags.FlagRefused):
        flags.extra_flags(extra)


@pytest.mark.parametrize("engine", [{"dtype": "x"}, {"max_model_len": 0}, {"kv_cache_gib": -1}, {"max_num_seqs": 0}])
def test_settings_that_make_no_sense(engine: dict[str, Any]) -> None:
    with pytest.raises(flags.FlagRefused, match=next(iter(engine))):
        flags.arguments(assigned(**engine), Path("/m"), Path("/s"), gpu=True)


def test_the_environment_holds_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KASBAH_BROKER_URL", "redis://:secret@x")
    monkeypatch.setenv("HF_TOKEN", "secret")
    environment = flags.environment(EngineSettings(), tmp_path, tmp_path, gpu=False)
    assert "secret" not in json.dumps(environment)
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"


def test_events_cut_anywhere_are_put_together() -> None:
    stream = b'data: {"a": 1}\n\n: keep-alive\n\ndata: {"b": "x y"}\n\ndata: [DONE]\n\n'
    whole = [b'{"a": 1}', b'{"b": "x y"}', b"[DONE]"]
    for size in range(1, len(stream)):
        events, found = chunks.Events(), []
        for at in range(0, len(stream), size):
            found += events.feed(stream[at : at + size])
        assert found == whole


@pytest.mark.parametrize(
    ("delta", "kind"),
    [
        ({"role": "assistant", "content": ""}, Role),
        ({"content": "x"}, Data),
        ({"reasoning": "x"}, Data),
        ({"reasoning_content": "x"}, Data),
        ({"tool_calls": [{"index": 0}]}, Data),
        ({}, Role),
    ],
)
def test_chunks_with_and_without_content(delta: dict[str, Any], kind: type) -> None:
    event = json.dumps({"id": "a", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()
    assert type(chunks.frame_of(event, chunks.Counter())) is kind


def test_usage_is_taken_out_and_every_documented_field_stays() -> None:
    chunk = {
        "id": "a",
        "created": 1.5,
        "choices": [{"index": 0, "text": ',"usage":{"x":1}', "logprobs": {"tokens": ["a"], "token_logprobs": [None]}}],
    }
    usage = {"usage": {"prompt_tokens": 3, "total_tokens": 4, "completion_tokens": 1}}
    counter = chunks.Counter()
    frame = chunks.frame_of(json.dumps({**chunk, **usage}).encode(), counter)
    assert isinstance(frame, Data)
    assert json.loads(frame.chunk) == chunk
    assert counter.usage == Usage(3, 1)


def usage_chunk(index: int | None, prompt: int, completion: int) -> bytes:
    choices = [] if index is None else [{"index": index, "text": "x"}]
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return json.dumps({"choices": choices, "usage": usage}).encode()


def test_counts_over_choices_and_prompts() -> None:
    """Two prompts with two choices each: vLLM counts each choice apart, and only the last chunk has the sum."""
    counter = chunks.Counter(n=2, prompts=2)
    for index, prompt, completion in ((0, 5, 1), (1, 5, 1), (0, 5, 2), (2, 7, 1)):
        chunks.frame_of(usage_chunk(index, prompt, completion), counter)
    assert counter.usage == Usage(12, 4)
    assert chunks.frame_of(usage_chunk(None, 12, 9), counter) is None
    assert counter.usage == Usage(12, 9)


def test_counts_are_inexact_while_a_prompt_is_missing() -> None:
    counter = chunks.Counter(n=1, prompts=2)
    assert counter.usage == Usage(0, 0, exact=False)
    chunks.frame_of(usage_chunk(0, 5, 1), counter)
    assert counter.usage == Usage(5, 1, exact=False)


def error(message: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}).encode()


def test_a_failure_never_quotes_the_prompt() -> None:
    vllm = (
        "1 validation error:\n  {'type': 'string_type', 'loc': 'body.prompt', 'msg': 'Input should be a valid string'"
    )
    failure = failures.of_answer(400, error(f"{vllm}, 'input': 'my secret'}}", "body.prompt"))
    assert (failure.status, failure.param) == (400, "prompt")
    assert "Input should be a valid string" in failure.message
    assert "secret" not in failure.message
    assert len(failures.of_answer(400, error("x" * 9000)).message) < 600


def test_failures_have_codes() -> None:
    long = failures.of_answer(400, error("This model's maximum context length is 2048 tokens.", "messages"))
    assert (long.code, long.retry) == ("context_length_exceeded", False)
    assert failures.of_answer(422, b"not json").status == 422
    assert failures.of_answer(500, error("insides")) == failures.ENGINE_FAILED


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (request.COMPLETIONS, {"prompt": ["a", "b"], "n": 3}, (3, 2)),
        (request.COMPLETIONS, {"prompt": [1, 2, 3]}, (1, 1)),
        (request.COMPLETIONS, {"prompt": [[1, 2], [3]]}, (1, 2)),
        (request.CHAT, {"messages": [], "n": 2}, (2, 1)),
        (request.CHAT, {"messages": [], "n": "many"}, (1, 1)),
    ],
)
def test_the_number_of_prompts_and_choices(path: str, body: dict[str, Any], expected: tuple[int, int]) -> None:
    payload = Payload(path=path, body=msgspec.json.encode(body), stream=True, reply_secret=b"")
    prepared = request.prepare(payload, model="m", salt="s")
    assert (prepared.n, prepared.prompts) == expected


def test_what_is_counted_of_a_cancelled_request() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [], "temperature": 1}
    payload = Payload(path=request.CHAT, body=msgspec.json.encode(body), stream=False, reply_secret=b"")
    counted = request.to_count(request.prepare(payload, model="m", salt="s"))
    assert json.loads(counted or b"") == {"model": "m", "messages": body["messages"], "tools": []}
