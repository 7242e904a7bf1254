"""The supervisor: order, restarts, strays, logs; and the first question against a small server."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local import processes, question, services
from infra.local.services import Program, Supervisor

SLEEP = "import time; time.sleep(60)"


def program(tmp_path: Path, name: str, code: str = SLEEP, patience: float = 5.0) -> Program:
    return Program([sys.executable, "-c", code], dict(os.environ), tmp_path / f"{name}.log", tmp_path, patience)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    others = processes.children(os.getpid())
    result = Supervisor(tmp_path, said.append)
    yield result
    result.stop()
    assert processes.children(os.getpid()) == others


def look_until(supervisor: Supervisor, condition: object, within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came"
        supervisor.look()
        time.sleep(0.05)


def test_what_dies_is_started_again_with_growing_pauses_and_said(
    supervisor: Supervisor, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "FIRST_PAUSE", 0.1)
    service = program(tmp_path, "short", "import sys; sys.exit(3)")
    supervisor.start("short", service)
    supervisor._kept[0].pause = 0.1
    look_until(supervisor, lambda: len([line for line in said if "ended with status 3" in line]) >= 3)
    pauses = [kept.pause for kept in supervisor._kept]
    assert pauses[0] >= 0.8
    assert any("started again" in line for line in said)
    assert str(service.log) in said[0]
    assert supervisor.failures["short"] >= 3


def test_a_killed_service_comes_back_under_a_new_pid(supervisor: Supervisor, tmp_path: Path, said: list[str]) -> None:
    service = program(tmp_path, "one")
    supervisor.start("one", service)
    assert service.process is not None
    first = service.process.pid
    assert processes.read_pid(tmp_path / "one.pid") == first
    os.kill(first, signal.SIGKILL)
    look_until(supervisor, lambda: processes.read_pid(tmp_path / "one.pid") not in {None, first})
    assert "was killed by SIGKILL" in said[0]


def test_everything_ends_in_the_opposite_order_and_what_had_to_be_killed_is_named(tmp_path: Path) -> None:
    other = processes.spawn([sys.executable, "-c", SLEEP], log=tmp_path / "other")
    supervisor = Supervisor(tmp_path, lambda text: None)
    record = tmp_path / "record"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    open({record!r}, 'a').write({name!r} + '\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(60)"
    )
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    for name in ("postgres", "web", "worker"):
        supervisor.start(name, program(tmp_path, name, code.format(record=str(record), name=name)))
    supervisor.start("deaf", program(tmp_path, "deaf", deaf, patience=0.3))
    for name in ("postgres", "web", "worker", "deaf"):
        while "up" not in (tmp_path / f"{name}.log").read_text():
            time.sleep(0.02)
    assert supervisor.stop() == ["deaf"]
    assert record.read_text().split() == ["worker", "web", "postgres"]
    assert list(tmp_path.glob("*.pid")) == []
    assert other.poll() is None  # what was there before is not the supervisor's to end
    processes.end(other)


def test_what_a_killed_service_leaves_behind_is_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    """As the engine of a worker that was killed: in a session of its own, deaf to SIGTERM for a while."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    service = program(tmp_path, "worker", code)
    supervisor.start("worker", service)
    while not service.log.read_text().endswith("\n"):
        time.sleep(0.02)
    stray = int(service.log.read_text())
    assert processes.started_at(stray) is not None
    assert service.process is not None
    service.process.kill()
    look_until(supervisor, lambda: processes.started_at(stray) is None)


def test_logs_stay_within_bounds_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "LOG_LIMIT", 1000)
    log = tmp_path / "web.log"
    with log.open("ab") as writer:
        writer.write(b"first " * 200)
        writer.flush()
        services.limit_log(log)
        writer.write(b"second")
    assert log.read_bytes() == b"second"
    assert (tmp_path / "web.log.1").read_bytes() == b"first " * 200
    services.limit_log(tmp_path / "absent.log")


class Platform(BaseHTTPRequestHandler):
    """Says 503 twice, then answers; has a receipt for that request only."""

    asked = 0
    status = 503

    def do_POST(self) -> None:
        type(self).asked += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer the-key"
        if self.asked < 3:
            return self._send(self.status, {"error": {"message": "no worker", "code": "no_worker"}}, {})
        message = {"role": "assistant", "content": f"Paris, says {body['model']}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return self._send(200, answer, {"kasbah-site": "rabat", "x-request-id": "r1", "kasbah-model-digest": "abc"})

    def do_GET(self) -> None:
        known = self.path == "/api/receipts/r1" and self.headers["Authorization"] == "Bearer the-key"
        self._send(200 if known else 404, {"signature": "sig", "site": {"slug": "rabat", "jurisdiction": "MA"}}, {})

    def _send(self, status: int, body: object, headers: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Platform.asked = 0
    Platform.status = 503
    with ThreadingHTTPServer(("127.0.0.1", 0), Platform) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_first_question_waits_for_a_worker_and_brings_the_receipt(address: str) -> None:
    waited: list[str] = []
    answer = question.ask(address, "the-key", "demo", waited.append)
    assert answer.text == "Paris, says demo."
    assert waited == ["waiting for the engine"] * 2
    assert answer.receipt["signature"] == "sig"
    lines = "\n".join(question.report(answer))
    assert all(part in lines for part in ("Paris", "rabat (MA)", "abc", "r1", "not said", '"signature": "sig"'))


def test_an_error_that_waiting_cannot_cure_ends_the_wait(address: str) -> None:
    Platform.status = 401
    with pytest.raises(question.Unanswered, match="401"):
        question.ask(address, "the-key", "demo", lambda reason: None)
    with pytest.raises(question.Unanswered, match="404"):
        question.receipt(address, "the-key", {"x-request-id": "other"})


def test_whether_something_listens_is_seen(address: str) -> None:
    port = int(address.rpartition(":")[2])
    assert question.reachable("127.0.0.1", port)
    assert not question.reachable("127.0.0.1", 9)
