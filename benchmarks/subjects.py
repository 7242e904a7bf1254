"""What is measured: the engine alone, Kasbah with every check on, and LiteLLM where it is installed.

All three end in the same engine program, so a difference is the gateway's own. Everything listens on loopback or on a
Unix socket and ends with the benchmark.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from inference_worker.contract import manifest
from infra.local import demo
from infra.local.home import REPOSITORY, Home
from infra.local.model import BuiltModel
from infra.local.services import Supervisor
from tests.fakes import engine as fake
from tests.registry import folders

MODEL = "smollm2-moe"  # the name that bootstrap_demo gives
LITELLM = REPOSITORY / ".venv-bench" / "bin" / "litellm"
PATIENCE = 90.0  # seconds until a subject answers


@dataclass(frozen=True)
class Subject:
    """Something that answers OpenAI requests. `pids` are the roots of the processes that it is charged for."""

    name: str
    url: str
    key: str
    model: str
    pids: dict[str, int]
    uds: str | None = None


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tiny_model(models: Path) -> BuiltModel:
    """A version that registers like a model and holds almost nothing: the fake engine never reads it."""
    folder = folders.model(models / "incoming")
    digest = manifest.digest_of(manifest.manifest_of(folder))
    folder.rename(models / digest)
    return BuiltModel(name=MODEL, digest=digest, folder=models / digest)


@contextlib.contextmanager
def engine_alone(home: Path, environment: dict[str, str]) -> Iterator[Subject]:
    """The fake engine on a Unix socket, asked directly."""
    program = fake.write_program(home / "engine-alone", environment)
    sock = home / "alone.sock"
    log = (home / "alone.log").open("ab")
    argv = [str(program), "-m", "fake", "--model", str(home), "--served-model-name", MODEL, "--uds", str(sock)]
    child = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        _until(sock.exists, "the engine alone")
        yield Subject("engine alone", "http://engine/v1", "none", MODEL, {"engine": child.pid}, str(sock))
    finally:
        child.terminate()
        child.wait(10)
        log.close()


@contextlib.contextmanager
def kasbah(home: Path, engine: Path, build: Callable[[Path], BuiltModel] = tiny_model) -> Iterator[Subject]:
    """The installation of `make demo`, with `engine` where the engine's interpreter stands and `build`'s model."""
    place = Home(home / "kasbah")
    place.create()
    supervisor = Supervisor(place.run, lambda text: print(f"! {text}", file=sys.stderr))
    running = demo.Demo(place, "127.0.0.1", free_port(), supervisor)
    try:
        facts = _start(running, engine, build(place.models))
        subject = Subject(
            "kasbah",
            f"{running.address}/v1",
            str(facts["api_key"]),
            str(facts["model"]),
            {kept: _pid(place, kept) for kept in ("web", "worker", "valkey-site", "valkey-control", "postgres")},
        )
        _until(lambda: _answers(subject), "kasbah")
        yield subject
    finally:
        supervisor.stop()


def _start(running: demo.Demo, engine: Path, built: BuiltModel) -> dict[str, object]:
    database, site = demo.start_servers(running)
    running.manage("migrate", "--no-input", extra={"owner_database_url": database.owner_url})
    facts = demo.bootstrap(running, site.url, built)
    demo.start_control_plane(running)
    demo.start_worker(running, facts, site.url, engine)
    return facts


@contextlib.contextmanager
def litellm(home: Path, engine_url: str, workers: int = 2) -> Iterator[Subject]:
    """LiteLLM's proxy with a master key, in front of an engine on loopback."""
    port, key = free_port(), "sk-benchmark"
    config = home / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {MODEL}\n"
        f"    litellm_params: {{model: openai/{MODEL}, api_base: '{engine_url}', api_key: none}}\n"
        f"general_settings: {{master_key: {key}}}\n"
        "litellm_settings: {telemetry: false}\n"
    )
    log = (home / "litellm.log").open("ab")
    # It would fetch a list of prices from the internet when it starts.
    environment = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
    }
    argv = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    child = subprocess.Popen([*argv, "--num_workers", str(workers)], stdout=log, stderr=log, env=environment, cwd=home)
    subject = Subject("litellm", f"http://127.0.0.1:{port}/v1", key, MODEL, {"litellm": child.pid})
    try:
        _until(lambda: _answers(subject), "LiteLLM")
        yield subject
    finally:
        child.terminate()
        child.wait(20)
        log.close()


@contextlib.contextmanager
def engine_on_loopback(home: Path, sock: str) -> Iterator[str]:
    """A relay from a port to the engine's socket, for programs that cannot use a socket. Yields its URL."""
    port = free_port()
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.relay", str(port), sock], cwd=REPOSITORY)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait(10)


def _pid(place: Home, name: str) -> int:
    return int((place.run / f"{name}.pid").read_text().split()[0])


def _answers(subject: Subject) -> bool:
    body = {"model": subject.model, "messages": [{"role": "user", "content": "[[tokens=1]]"}], "max_tokens": 1}
    with contextlib.suppress(httpx.HTTPError):
        headers = {"authorization": f"Bearer {subject.key}"}
        answer = httpx.post(f"{subject.url}/chat/completions", json=body, headers=headers, timeout=30)
        return answer.status_code == 200
    return False


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not answer within {PATIENCE:.0f} s")
        time.sleep(0.2)
