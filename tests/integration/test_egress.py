"""Egress between network namespaces: what the guard lets through and what not, by the kernel's own counters.

A library that phones home is planted into a real worker by a `sitecustomize`, and a listener at the other end of the
link waits for it. It begins with the first module of the worker, as what is imported by one would.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import valkey as local_valkey
from infra.local.valkey import Valkey
from tests.inference_worker.harness import ROOT, ControlPlane, chat, start_worker, text_of, wait_for
from tests.integration.capture import Flows, capture, read_frames
from tests.integration.namespaces import PREFIX, Namespace, ip, namespaces, program, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PHONE_HOME = """
import socket, sys, threading, time

def phone():
    while {module!r} not in sys.modules:
        time.sleep(0.01)
    while True:
        time.sleep(0.5)
        try:
            socket.create_connection(({host!r}, {port}), 1).sendall(b"telemetry")
        except OSError:
            pass

threading.Thread(target=phone, daemon=True).start()
"""


@pytest.fixture
def place() -> Iterator[Namespace]:
    """A namespace whose link is up."""
    with namespaces(["site"]) as made:
        made["site"].connect()
        yield made["site"]


@pytest.fixture
def listener(place: Namespace) -> Iterator[socket.socket]:
    """What exists at the other end, and should not be reached."""
    with socket.create_server((place.near, 0)) as server:
        server.setblocking(False)
        yield server


def heard(listener: socket.socket) -> list[str]:
    """Who connected since the last time."""
    found = []
    while True:
        try:
            connection, (peer, _) = listener.accept()
        except BlockingIOError:
            return found
        connection.close()
        found.append(str(peer))


def settle(place: Namespace) -> None:
    """Until the link was quiet for half a second."""
    before = (0, 0)
    while (now := place.counters()) != before:
        before = now
        time.sleep(0.5)


IPV4 = b"\x08\x00"  # the type of a frame; ARP and IPv6's own chatter are others
CALLS = ["tcp", "udp", "message", "asyncio_connected", "uvloop_connected", "uvloop_datagram", "uvloop_unconnected"]


def test_nothing_leaves_that_is_refused(place: Namespace, listener: socket.socket, tmp_path: Path) -> None:
    port = listener.getsockname()[1]

    def calls(guard: str) -> set[str]:
        command = [
            *place.launcher, sys.executable, "-m", "tests.inference_worker.egress_calls",
            "[]", guard, str(port), json.dumps([(name, place.near) for name in CALLS]),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        return set(json.loads(done.stdout)["outcome"].values())

    assert calls("off") == {"done"}  # the negative control: the destination is there, and the way to it
    assert heard(listener) == [place.far] * 3
    settle(place)
    with capture(place.link, tmp_path / "frames") as recording:
        assert calls("on") == {"refused"}
        recording.stop()
    assert heard(listener) == []
    assert not [frame for frame in read_frames(tmp_path / "frames") if frame[12:14] == IPV4]


def test_a_worker_in_a_namespace_serves_over_its_brokers_address_alone(
    place: Namespace, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    host, port = listener.getsockname()
    (planted / "sitecustomize.py").write_text(PHONE_HOME.format(module="inference_worker.config", host=host, port=port))
    server = local_valkey.prepare(tmp_path, "site", aof=False, settings={"bind": f"127.0.0.1 {place.near}"})
    server.host = place.near
    server.start()
    try:
        with capture(place.link, tmp_path / "frames") as recording, ControlPlane(server.url) as control:
            monkeypatch.setenv("PYTHONPATH", str(planted))
            _serves(control, server, place, tmp_path, f"{host}:{port}")
            recording.stop()
    finally:
        server.stop()
    assert heard(listener) == []
    flows = Flows()
    for frame in read_frames(tmp_path / "frames"):
        flows.add(frame)
    assert flows.ports() == {server.port}


def _serves(control: ControlPlane, server: Valkey, place: Namespace, folder: Path, destination: str) -> None:
    models = folder / "models"
    deployment = control.deployment(models)
    with start_worker(
        server.url, folder / "worker", token=control.token(), models=models, launcher=place.launcher
    ) as worker:
        control.assign(worker.id, deployment)
        worker.await_ready()
        sent = control.submit(deployment, chat("[[tokens=3]] hello", stream=True))
        assert text_of(control.frames(sent)) == " t0 t1 t2"

        def told() -> list[tuple[str, str]]:
            report = worker.report()
            return [(each.process, each.destination) for each in report.egress if each.count > 2] if report else []

        assert wait_for(told, 15) == [("worker", destination)]
        assert f"egress refused: the worker wanted {destination}" in worker.log


def test_where_namespaces_cannot_be_made_a_test_fails_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(pytest.fail.Exception, match=r"iproute2.*no program `ip`"):
            ip("netns", "list")
    with pytest.raises(pytest.fail.Exception, match=r"root.*CAP_NET_ADMIN.*said"):
        ip("netns", "add", "")


def test_what_a_killed_run_left_is_swept() -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait()
    name = f"{PREFIX}{ended.pid}-0"
    ip("netns", "add", name)
    with subprocess.Popen([program(), "netns", "exec", name, "sleep", "60"]) as left:
        wait_for(lambda: str(left.pid) in ip("netns", "pids", name), 5)
        sweep()
        assert left.wait(5) == -signal.SIGKILL
    assert name not in ip("netns", "list")


def test_without_the_guard_the_planted_library_gets_through(
    place: Namespace, listener: socket.socket, tmp_path: Path
) -> None:
    """The negative control of the test above: the same code in the same namespace is heard."""
    host, port = listener.getsockname()
    (tmp_path / "sitecustomize.py").write_text(PHONE_HOME.format(module="sys", host=host, port=port))
    command = [*place.launcher, "env", f"PYTHONPATH={tmp_path}", sys.executable, "-c", "import time; time.sleep(2)"]
    subprocess.run(command, check=True, timeout=30)
    assert place.far in heard(listener)
