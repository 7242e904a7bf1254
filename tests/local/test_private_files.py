"""What the installation on one machine leaves lying about: nothing that others read, and no secret in a process."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.local import demo as demos
from infra.local import processes, services
from infra.local.demo import Demo
from infra.local.home import Home
from infra.local.services import Program, Supervisor
from tests.gateway.stack import free_port

pytestmark = pytest.mark.slow
PLAIN = {"bind", "allowed_hosts", "installation", "demo_model"}  # no secrets, though they lie with them


def open_to_others(home: Path) -> list[str]:
    """Files and folders below `home`, and itself, that group or others may do anything with."""
    found = []
    for path in (home, *home.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o077:
            found.append(f"{path.relative_to(home)} {stat.filemode(mode)}")
    return found


def secrets_of(home: Path) -> set[str]:
    """Every secret that lies in a file of the installation; of an address its password."""
    found = set()
    for folder in ("secrets", "admin", "worker-secrets"):
        for path in (home / folder).rglob("*"):
            if path.is_file() and path.name not in PLAIN:
                text = path.read_text().strip()
                found.add((urlsplit(text).password or "") if "://" in text else text)
    return found - {""}


def descendants(pid: int) -> Iterator[int]:
    for child in processes.children(pid):
        yield child
        yield from descendants(child)


def told(home: Path, pids: list[int]) -> list[str]:
    """Where environment or command line of a process holds a secret."""
    found, secrets = [], secrets_of(home)
    assert len(secrets) > 8
    for pid in pids:
        for name in ("environ", "cmdline"):
            text = ""
            with contextlib.suppress(OSError):  # the database's own come and go
                text = Path(f"/proc/{pid}/{name}").read_bytes().decode("utf-8", "replace")
            found += [f"{pid} {name} {text[:60]!r}" for secret in secrets if secret in text]
    return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Servers, web process, housekeeping and a worker as `make demo` starts them, by one whose umask is generous."""
    outer = os.umask(0o022)
    place = Home(tmp_path / "home")
    place.logs.mkdir(parents=True)  # of an earlier version, as the log is
    (place.path / "KASBAH_HOME").touch()
    (place.logs / "web.log").touch(mode=0o644)
    made = Demo(place, "127.0.0.1", free_port(), Supervisor(place.run, lambda text: None))
    os.umask(0o077)  # as demo.main
    place.create()
    try:
        database, site = demos.start_servers(made)
        made.manage("migrate", "--no-input", extra={"owner_database_url": database.owner_url})
        demos.start_control_plane(made)
        facts = {"site": "local", "enrol_token": "kse_" + "x" * 43}
        demos.start_worker(made, facts, site.url, Path(sys.executable))
        yield made
    finally:
        made.supervisor.stop()
        os.umask(outer)


def test_nothing_is_open_to_others_and_no_process_is_told_a_secret(demo: Demo) -> None:
    home, pids = demo.place.path, list(descendants(os.getpid()))
    for name in ("postgres", "valkey-control", "valkey-site", "web", "housekeeping", "worker"):
        pid = processes.read_pid(demo.place.run / f"{name}.pid")
        assert pid in pids, name
        assert Path(f"/proc/{pid}/environ").read_bytes(), name
    assert told(home, pids) == []
    time.sleep(2)  # beat's schedule, the first tiles, the append-only files
    assert open_to_others(home) == []
    assert any(home.rglob("*.aof"))
    assert (home / "logs" / "web.log").stat().st_mode & 0o777 == 0o600
    # the controls
    worker = (home / "worker-secrets" / "broker_url").read_text()
    waiting = [sys.executable, "-c", "input()"]
    leaky = subprocess.Popen(waiting, stdin=subprocess.PIPE, env={"KASBAH_BROKER_URL": worker})
    try:
        assert [line.split()[1] for line in told(home, [leaky.pid])] == ["environ"]
    finally:
        leaky.kill()
        leaky.communicate()
    (home / "logs" / "open.log").touch()
    (home / "logs" / "open.log").chmod(0o644)
    assert open_to_others(home) == ["logs/open.log -rw-r--r--"]


def test_children_and_their_logs_are_private_whatever_the_umask(tmp_path: Path) -> None:
    outer = os.umask(0)
    try:
        made = tmp_path / "made"
        program = Program([sys.executable, "-c", f"open({str(made)!r}, 'w')"], {}, tmp_path / "a.log", tmp_path)
        program.start()
        assert program.process is not None
        program.process.wait(20)
        (tmp_path / "long.log").write_bytes(b"x" * (services.LOG_LIMIT + 1))
        services.limit_log(tmp_path / "long.log")
    finally:
        os.umask(outer)
    assert made.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "long.log.1").stat().st_mode & 0o777 == 0o600


def test_commands_write_for_their_account_alone(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'made')!r}, 'w')"
    command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", code]
    subprocess.run(command, check=True, umask=0o022, capture_output=True, timeout=60)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
