"""The guard of egress: what is not on the list is refused, counted and told; in children, since a hook is for ever."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.egress import DESTINATIONS, OTHERS, EgressRefused, Endpoint, Guard, endpoint
from inference_worker.engine import launch
from inference_worker.engine.refusals import Refusals

ROOT = Path(__file__).parents[2]

CALLS = "tests.inference_worker.egress_calls"


def in_child(*wanted: tuple[str, str], allow: tuple[str, ...] = (), on: bool = True, port: int = 9) -> dict[str, Any]:
    """What became of these calls (name, host) in a process with the guard."""
    done = subprocess.run(
        [sys.executable, "-m", CALLS, json.dumps(allow), "on" if on else "off", str(port), json.dumps(wanted)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "log": done.stderr}


CONNECT = [
    (name, "127.0.0.1")
    for name in (
        "tcp", "tcp_ex", "udp", "message", "asyncio_connected", "uvloop_connected", "asyncio_datagram",
        "uvloop_datagram", "uvloop_unconnected",
    )
]  # fmt: skip
LOOK_UP = [
    (name, "secret.example")
    for name in ("look_up", "by_name", "tcp", "asyncio_connected", "uvloop_connected", "uvloop_looked_up")
]


def test_whatever_is_not_listed_is_refused() -> None:
    wanted = [*CONNECT, *LOOK_UP, ("by_address", "192.0.2.1"), ("name_of", "192.0.2.1"), ("tcp", "::1")]
    found = in_child(*wanted, allow=("127.0.0.1:10", "other.example:9"))
    assert set(found["outcome"].values()) == {"refused"}, found["outcome"]
    assert len(found["outcome"]) == len(wanted) == found["total"]
    counts = dict(found["attempts"])
    assert counts["127.0.0.1:9"] == len(CONNECT) - 1
    assert set(counts) == {
        "127.0.0.1:9", "anywhere:0", "secret.example:9", "secret.example:dns", "192.0.2.1:0", "192.0.2.1:9", "[::1]:9",
    }  # fmt: skip
    assert "[::1]:9" in found["last"]
    assert "KASBAH_EGRESS_ALLOW" in found["last"]
    assert len(found["told"]) == found["total"]


def test_without_the_guard_the_same_calls_go_out() -> None:
    """The negative control: a listener hears what the guard would have refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = in_child(("tcp", "127.0.0.1"), ("uvloop_connected", "127.0.0.1"), on=False, port=port)
        assert set(found["outcome"].values()) == {"done"}
        for _ in range(2):
            listener.accept()[0].close()
        found = in_child(("tcp", "127.0.0.1"), ("uvloop_connected", "127.0.0.1"), port=port)
        assert set(found["outcome"].values()) == {"refused"}
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_what_is_listed_goes_through_by_name_and_by_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for allow, hosts in (
            (f"redis://:password@127.0.0.1:{port}/0", ("127.0.0.1", "::ffff:127.0.0.1")),
            (f"localhost:{port}", ("localhost", "127.0.0.1")),
        ):
            wanted = [(name, host) for host in hosts for name in ("tcp", "asyncio_connected", "uvloop_connected")]
            found = in_child(*wanted, allow=(allow,), port=port)
            assert "refused" not in found["outcome"].values(), found["outcome"]
            assert found["outcome"][f"tcp {hosts[0]}"] == "done"
            assert found["total"] == 0


def test_a_log_line_a_minute_and_a_bounded_memory() -> None:
    found = in_child(*[("tcp", "192.0.2.1")] * 5)
    assert found["log"].count("egress refused") == 1
    assert found["attempts"] == [["192.0.2.1:9", 5]]
    guard = Guard("test")
    for number in range(DESTINATIONS + 50):
        with pytest.raises(EgressRefused):
            guard.check(f"h{number}.example", 443)
    counts = {each.destination: each.count for each in guard.attempts()}
    assert len(counts) == DESTINATIONS + 1
    assert counts[OTHERS] == 50
    with pytest.raises(EgressRefused) as refused:
        guard.check("x" * 5000 + "\n\x1b[31m.example", 443)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_a_list_replaces_what_its_owner_had() -> None:
    guard = Guard("test", ["unix:///run/x"])
    guard.allow("site a", ["redis://10.0.0.1:1/0", "amqp://user:pw@10.0.0.2/"])
    guard.allow("site b", ["10.0.0.1:1"])
    assert guard.listed == [Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 5672)]
    guard.allow("site a", ["redis://10.0.0.3:1/0"])
    assert guard.listed == [Endpoint("10.0.0.1", 1), Endpoint("10.0.0.3", 1)]
    with pytest.raises(EgressRefused):
        guard.check("10.0.0.2", 5672)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idp.example:443", Endpoint("idp.example", 443)),
        ("[2001:DB8::1]:80", Endpoint("2001:db8::1", 80)),
        ("rediss://:p%40ss@Broker.Example.:7000/0", Endpoint("broker.example", 7000)),
        ("https://idp.example/realms/x", Endpoint("idp.example", 443)),
        ("postgresql://role:pw@/db?host=/run/pg", None),
        ("unix:///run/valkey.sock", None),
    ],
)
def test_endpoints(text: str, expected: Endpoint | None) -> None:
    assert endpoint(text) == expected


@pytest.mark.parametrize("text", ["", "idp.example", "idp.example:port", ":443", "ftp://x", "host:99999"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        endpoint(text)


ENGINE = """
import multiprocessing, os, socket, subprocess, sys

def wanted(host):
    try:
        socket.create_connection((host, 9), 1).close()
    except OSError as error:
        return type(error).__name__

if __name__ == "__main__":
    print(sys.argv[1:], wanted("192.0.2.1"), wanted("127.0.0.1"))
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(wanted, ["192.0.2.2", "127.0.0.1"]))
    script = "import socket; socket.create_connection(('192.0.2.3', 9), 1)"
    print("EgressRefused" in subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr)
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_an_engine_and_its_children_reach_loopback_alone(tmp_path: Path, method: str) -> None:
    (tmp_path / "pretend.py").write_text(textwrap.dedent(ENGINE))
    journal = tmp_path / "egress"
    environment = {"PYTHONPATH": str(tmp_path), launch.JOURNAL: str(journal), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, launch.__file__, "-m", "pretend", method],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"['{method}'] EgressRefused ConnectionRefusedError",
        "['EgressRefused', 'ConnectionRefusedError']",
        "True",
    ], done.stderr
    attempts: dict[str, Any] = {}
    refusals = Refusals(attempts)
    refusals.follow(journal)
    refusals.look()
    refusals.look()
    assert {name: each.count for name, each in attempts.items()} == {
        "192.0.2.1:9": 1, "192.0.2.2:9": 1, "192.0.2.3:9": 1,
    }  # fmt: skip


def test_an_engine_without_its_guard_does_not_run(tmp_path: Path) -> None:
    broken = tmp_path / "engine" / "hook"
    broken.mkdir(parents=True)
    (broken / "sitecustomize.py").write_text((launch.HOOK / "sitecustomize.py").read_text())
    done = subprocess.run(
        [sys.executable, "-c", "print('ran')"],
        env={"PYTHONPATH": str(broken)}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (70, "")
    assert "guard could not be installed" in done.stderr


def test_an_engine_is_not_believed(tmp_path: Path) -> None:
    journal = tmp_path / "egress"
    journal.write_bytes(b"\xff\x1b[2Jx:1\n" + b"y" * 5000 + b"\nhalf a li")
    attempts: dict[str, Any] = {}
    refusals = Refusals(attempts)
    refusals.follow(journal)
    refusals.look()
    assert [len(name) <= 80 and name.isascii() and name.isprintable() for name in attempts] == [True, True]
