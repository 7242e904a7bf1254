"""The worker with the real engine and the demo model: what the fake engine claims, held to vLLM itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_worker.contract import manifest
from inference_worker.contract.frames import Body, Data, Done, Failed, Role
from inference_worker.contract.messages import Assigned, EngineSettings, Receipt, checked
from inference_worker.contract.signing import Purpose
from infra.local import model
from infra.local.valkey import valkey
from tests.inference_worker.harness import ControlPlane, Serving, alive, chat, start_worker, text_of, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = REPOSITORY / ".venv-engine" / "bin" / "python"
MODELS = REPOSITORY / "build" / "models"
LAUNCH = REPOSITORY / "inference_worker" / "engine" / "launch.py"
SECRET = "xylophone"  # in every prompt, and in no log

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A worker that serves the demo model; killed at the end, and nothing of it may be left."""
    folder = tmp_path_factory.mktemp("w")
    built = model.build(ENGINE_PYTHON, MODELS)
    settings = EngineSettings(max_model_len=512, max_num_seqs=8, dtype="float32", extra=["--enable-prefix-caching"])
    with (
        valkey(folder, "site", aof=False) as server,
        ControlPlane(server.url) as control,
        start_worker(
            server.url, folder / "worker", token=control.token(), models=MODELS, engine_python=ENGINE_PYTHON,
            arguments=("--run-dir", str(folder)),
        ) as worker,
    ):  # fmt: skip
        deployment = Assigned(
            deployment="0197f6a0-0000-7000-8000-00000000d001", name="demo", model_digest=built.digest,
            manifest=manifest.manifest_of(built.folder), engine=settings,
        )  # fmt: skip
        control.assign(worker.id, deployment)
        worker.await_ready(timeout=300)
        yield Serving(control, worker, deployment, patience=120)
        processes = worker.descendants()
        worker.process.kill()
        wait_for(lambda: not alive(processes), 10)


def running(engine: Serving) -> float:
    """Requests that vLLM works on, by its own metrics."""
    (socket,) = (engine.worker.state_dir.parent.parent).glob("ksb-*/s")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        lines = client.get("http://engine/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


def whole(engine: Serving, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[dict[str, Any], Done]:
    _, given = engine.ask(body, path=path, stream=False)
    assert isinstance(given[0], Body), given[0]
    assert isinstance(given[1], Done)
    return json.loads(given[0].body), given[1]


def test_a_stream_says_what_the_whole_answer_says(engine: Serving) -> None:
    body = chat(f"Name three colours. {SECRET}", max_tokens=24, temperature=0)
    sent = engine.control.submit(engine.deployment, body)
    given = engine.control.frames(sent, engine.patience)
    done = given[-1]
    assert isinstance(given[0], Role)
    assert isinstance(done, Done)
    assert all(isinstance(frame, Data) and b'"usage"' not in frame.chunk for frame in given[1:-1])
    answer, counted = whole(engine, body)
    assert text_of(given) == answer["choices"][0]["message"]["content"] != ""
    assert done.usage == counted.usage
    assert done.usage.completion_tokens == answer["usage"]["completion_tokens"] > 0
    receipt = checked(engine.control.workers[engine.worker.id], Purpose.RECEIPT, done.receipt, Receipt)
    assert receipt.engine.startswith("vllm 0.")
    assert receipt.model_digest == engine.deployment.model_digest


def test_a_prompt_is_counted_alike_by_tokenize(engine: Serving) -> None:
    _, done = whole(engine, chat(f"Hello there {SECRET}", max_tokens=2))
    _, counted = whole(engine, {"messages": chat(f"Hello there {SECRET}")["messages"]}, "/tokenize")
    assert counted.usage.prompt_tokens == done.usage.prompt_tokens > 0


def test_several_choices_and_prompts_are_summed(engine: Serving) -> None:
    body = {"prompt": [f"One {SECRET}", f"Two {SECRET} more"], "n": 2, "max_tokens": 5, "temperature": 1}
    sent = engine.control.submit(engine.deployment, {**body, "ignore_eos": True}, path="/v1/completions")
    done = engine.control.frames(sent, engine.patience)[-1]
    assert isinstance(done, Done)
    assert done.usage.completion_tokens == 20


def test_a_cancelled_stream_stops_vllm(engine: Serving) -> None:
    body = chat(f"Tell me a long story. {SECRET}", max_tokens=450, ignore_eos=True)
    sent = engine.control.submit(engine.deployment, body)
    wait_for(lambda: len(engine.control.arrived(sent)) > 3, 60)
    assert running(engine) == 1
    engine.control.cancel(sent)
    began = time.monotonic()
    wait_for(lambda: running(engine) == 0, 5)
    assert time.monotonic() - began < 1.5  # a quarter of a second to see it, a step of the engine, and the question
    given = engine.control.frames(sent)
    done = given[-1]
    assert isinstance(done, Done)
    assert done.cancelled
    content = sum(isinstance(frame, Data) for frame in given)
    assert content <= done.usage.completion_tokens <= content + 2  # a token may be without text
    assert done.usage.prompt_tokens > 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"messages": [{"role": "user", "content": f"{SECRET} " * 600}]}, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": {SECRET: SECRET}}]}, "invalid_request"),
        ({"temperature": f"{SECRET}"}, "invalid_request"),
    ],
)
def test_vllms_refusals_do_not_quote_the_prompt(
    engine: Serving, fields: dict[str, Any], code: str, stream: bool
) -> None:
    _, given = engine.ask({**chat("x"), **fields}, stream=stream)
    failed = given[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.retry) == (400, code, False)
    assert failed.message
    assert SECRET not in failed.message


def with_schema(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat(f"A number {SECRET}", response_format=form, **fields)


def test_an_answer_follows_its_schema(engine: Serving) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    answer, _ = whole(engine, with_schema(schema, max_tokens=40, temperature=0))
    assert json.loads(answer["choices"][0]["message"]["content"])["a"] in (1, 2)


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"$ref": "#"}, "invalid_schema"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "invalid_schema"),
        ({"enum": [f"value {number}" for number in range(50_000)]}, "schema_too_complex"),
        ({"type": "string", "pattern": "(("}, "invalid_request"),
        ({"$ref": "#/$defs/none"}, "invalid_request"),
    ],
    ids=["itself", "each other", "enum", "pattern", "dangling"],
)
def test_a_schema_that_vllm_cannot_take_is_a_400_at_once_and_streams_go_on(
    engine: Serving, schema: dict[str, Any], code: str
) -> None:
    """Straight to the worker: the gateway would refuse most of them before."""
    beside = engine.control.submit(engine.deployment, chat(f"A story. {SECRET}", max_tokens=30, ignore_eos=True))
    wait_for(lambda: len(engine.control.arrived(beside)) > 3, 60)
    _, given = engine.ask(with_schema(schema), stream=False)
    failed = given[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.retry) == (400, code, False)
    assert isinstance(engine.control.frames(beside, 300)[-1], Done)
    assert "a connection was lost" not in engine.worker.log


def test_no_prompt_is_in_a_log(engine: Serving) -> None:
    engine.ask(chat(SECRET, max_tokens=1))
    logs = {file.name: file.read_text() for file in (engine.worker.state_dir / "logs").iterdir()}
    assert any("vLLM" in text for text in logs.values())
    assert not [name for name, text in {**logs, "worker": engine.worker.log}.items() if SECRET in text]


def test_vllm_runs_behind_its_guard_and_wants_no_connection(engine: Serving) -> None:
    engine.ask(chat("hello", max_tokens=2))
    report = engine.worker.report()
    assert report is not None
    assert report.egress == []
    command = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in engine.worker.descendants()]
    assert any(str(LAUNCH).encode() in words[1:2] for words in command)
