"""`make demo` as a newcomer meets it: the real engine, the real servers, the OpenAI SDK, a receipt checked apart."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract.signing import b64

ROOT = Path(__file__).parents[2]
VERIFY = ROOT / "docs" / "auditor" / "verify_receipt.py"
PATIENCE = 300.0
MODEL = "smollm2-moe"

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Running:
    """A demo that says that it runs."""

    process: subprocess.Popen[str]
    home: Path
    address: str
    key: str
    printed: str
    seconds: float

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=self.key, max_retries=0, timeout=120)


def command(home: Path, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "infra.local", "demo", "--engine", "cpu", "--bind", f"127.0.0.1:{port}"],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("KASBAH_")}, "KASBAH_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(home: Path, port: int) -> Running:
    began, process, lines = time.monotonic(), command(home, port), list[str]()
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Running."):
            break
        assert time.monotonic() - began < PATIENCE, "".join(lines)
    printed = "".join(lines)
    assert process.poll() is None, printed
    key = re.search(r"api_key=(ksb_\w+)", printed)
    assert key, printed
    return Running(process, home, f"http://127.0.0.1:{port}", key[1], printed, time.monotonic() - began)


def end(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)
    running.process.communicate(timeout=60)  # reads to the end and closes the pipe
    assert running.process.returncode == 0
    left = [process.cmdline() for process in psutil.process_iter() if str(running.home) in environment_of(process)]
    assert left == []


def environment_of(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), *process.environ().values()])
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory(prefix="ksb-demo-") as folder, socket.socket() as probe:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another account when the tests run as root
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        yield Path(folder) / "home", port


@pytest.fixture(scope="module")
def demo(place: tuple[Path, int]) -> Iterator[Running]:
    running = start(*place)
    yield running
    if running.process.poll() is None:
        end(running)


def ask(demo: Running, **extra: Any) -> Any:
    return demo.client().chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Name one colour of the sky."}],
        max_tokens=12,
        temperature=0,
        **extra,
    )


def test_prints_the_answer_its_origin_and_how_to_go_on(demo: Running) -> None:
    for text in ("Answer ", "Processed", "Receipt", f"curl {demo.address}/v1/chat/completions", demo.key):
        assert text in demo.printed
    assert "Paris" in demo.printed  # the demo model knows this much


def test_the_printed_curl_line_works(demo: Running) -> None:
    line = re.search(r"  (curl .*?'\n)", demo.printed, re.DOTALL)
    assert line
    answer = subprocess.run(["/bin/sh", "-c", line[1]], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_the_printed_commands_line_works(demo: Running) -> None:
    lines = re.search(r"  Commands:    (export .*\n) +(.*) help\n", demo.printed)
    assert lines
    line = f"{lines[1]}exec {lines[2]} auditlog check"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KASBAH_")}
    checked = subprocess.run(["/bin/sh", "-c", line], env=plain, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"sound +True", checked.stdout)


def test_the_sdk_streams_what_it_answers_at_once(demo: Running) -> None:
    whole = ask(demo).parse()
    chunks = list(ask(demo, stream=True, stream_options={"include_usage": True}).parse())
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens <= 12


def test_completions_tokenize_and_models(demo: Running) -> None:
    client = demo.client()
    assert [model.id for model in client.models.list()] == [MODEL]
    completion = client.completions.create(model=MODEL, prompt="The sky is", max_tokens=4, temperature=0)
    assert completion.choices[0].text
    headers = {"Authorization": f"Bearer {demo.key}"}
    tokens = httpx.post(f"{demo.address}/tokenize", json={"model": MODEL, "prompt": "The sky is"}, headers=headers)
    assert tokens.json()["count"] == completion.usage.prompt_tokens  # type: ignore[union-attr]


def test_the_receipt_is_verified_without_kasbah(demo: Running, tmp_path: Path) -> None:
    raw = ask(demo)
    usage = raw.parse().usage
    headers = {"Authorization": f"Bearer {demo.key}"}
    shown = httpx.get(f"{demo.address}/api/receipts/{raw.headers['x-request-id']}", headers=headers).json()
    # The trusted key comes from the worker's own machine, not from the platform that hands out the receipt.
    private = (demo.home / "worker" / "identity.key").read_bytes()
    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    (tmp_path / "worker.pub").write_text(b64(public) + "\n")
    (tmp_path / "receipt.txt").write_text(shown["receipt"])
    asked = [sys.executable, "-I", str(VERIFY), "receipt.txt", "--worker-key", "worker.pub"]
    checked = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    receipt = json.loads(checked.stdout)["receipt"]
    assert receipt["model_digest"] == raw.headers["kasbah-model-digest"].removeprefix("sha256:")
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    altered = shown["receipt"][:-3] + ("AAA" if not shown["receipt"].endswith("AAA") else "BBB")
    (tmp_path / "receipt.txt").write_text(altered)
    assert subprocess.run(asked, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_what_the_policy_does_not_allow_is_refused(demo: Running) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(demo, extra_headers={"kasbah-data-class": "secret"})
    assert caught.value.code == "residency_denied"


def test_a_second_start_at_once_says_so(demo: Running, place: tuple[Path, int]) -> None:
    second = command(*place)
    text, _ = second.communicate(timeout=30)
    assert second.returncode != 0
    assert f"already runs from {demo.home} (pid {demo.process.pid})" in text


def test_stops_cleanly_and_takes_its_data_up_again(demo: Running, place: tuple[Path, int]) -> None:
    request = ask(demo).headers["x-request-id"]
    end(demo)
    again = start(*place)
    try:
        assert again.key == demo.key
        headers = {"Authorization": f"Bearer {again.key}"}
        assert httpx.get(f"{again.address}/api/receipts/{request}", headers=headers).status_code == 200
        log = (again.home / "logs" / "web.log").read_text() + (again.home / "logs" / "worker.log").read_text()
        assert "colour of the sky" not in log
        assert again.key not in log
    finally:
        end(again)
