"""Children, pid files and secrets."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.local import processes, secrets

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.02)


def test_a_pid_file_cannot_name_a_stranger(tmp_path: Path) -> None:
    child = processes.spawn(SLEEP, log=tmp_path / "log")
    note = tmp_path / "pid"
    processes.write_pid(note, child.pid)
    assert processes.read_pid(note) == child.pid
    number, started = note.read_text().split()
    note.write_text(f"{number} {int(started) - 1}\n")
    assert processes.read_pid(note) is None
    note.write_text("nonsense")
    assert processes.read_pid(note) is None
    processes.end(child)
    processes.write_pid(note, child.pid)
    assert processes.read_pid(note) is None
    assert processes.read_pid(tmp_path / "absent") is None


def test_ending_is_polite_first_and_sure_in_the_end(tmp_path: Path) -> None:
    polite = processes.spawn(SLEEP, log=tmp_path / "log")
    assert processes.end(polite)
    assert polite.returncode == -signal.SIGTERM
    deaf = processes.spawn(DEAF, log=tmp_path / "deaf")
    wait_for(tmp_path / "deaf", "up")
    assert not processes.end(deaf, patience=0.2)
    assert deaf.returncode == -signal.SIGKILL


def test_a_child_has_a_session_of_its_own_so_that_ctrl_c_reaches_the_supervisor_alone(tmp_path: Path) -> None:
    child = processes.spawn(SLEEP, log=tmp_path / "log", env={"PATH": os.defpath})
    assert os.getsid(child.pid) == child.pid
    assert child.pid in processes.children(os.getpid())
    processes.end(child)
    assert child.pid not in processes.children(os.getpid())


def test_a_program_that_is_not_there_is_an_error_in_its_log(tmp_path: Path) -> None:
    child = processes.spawn([str(tmp_path / "absent")], log=tmp_path / "log")
    assert child.wait() != 0
    assert "No such file" in (tmp_path / "log").read_text()


def test_secrets_are_private_random_and_written_once(tmp_path: Path) -> None:
    def write(home: Path, redis_url: str) -> dict[str, str]:
        folder = secrets.write_all(
            home, database_url="app", owner_database_url="owner", redis_url=redis_url, bind="127.0.0.1:9"
        )
        assert folder == home / "secrets"
        return {path.name: path.read_text() for path in folder.iterdir()}

    old = os.umask(0)
    try:
        first = write(tmp_path / "a", "redis://1")
    finally:
        os.umask(old)
    assert set(first) >= {"database_url", "redis_url", "secret_key", "kek", "api_key_pepper", "audit_key"}
    for folder in (tmp_path / "a" / "secrets", tmp_path / "a" / "admin"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    again, other = write(tmp_path / "a", "redis://2"), write(tmp_path / "b", "redis://1")
    keys = set(secrets.GENERATED)
    assert {name: first[name] for name in keys} == {name: again[name] for name in keys}
    assert again["redis_url"] == "redis://2"
    assert all(first[name] != other[name] for name in keys)
    assert len({first[name] for name in keys}) == len(keys)


def test_the_running_server_is_not_given_the_owners_url(tmp_path: Path) -> None:
    folder = secrets.write_all(
        tmp_path, database_url="a", owner_database_url="owners-secret", redis_url="r", bind="127.0.0.1:9"
    )
    assert all("owners-secret" not in path.read_text() for path in folder.rglob("*"))
    assert (tmp_path / "admin" / "owner_database_url").read_text() == "owners-secret"


def test_the_keys_are_what_the_control_plane_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kasbah.common import env

    folder = secrets.write_all(tmp_path, database_url="a", owner_database_url="o", redis_url="r", bind="127.0.0.1:9")
    for name in [name for name in os.environ if name.startswith("KASBAH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KASBAH_SECRETS_DIR", str(folder))
    for name in ("KEK", "AUDIT_KEY"):
        assert len(env.key_bytes(name)) == 32
    assert env.value("DATABASE_URL") == "a"
    with pytest.raises(env.SettingMissing):
        env.value("OWNER_DATABASE_URL")


def test_running_pids_are_seen_without_being_ones_parent() -> None:
    child = subprocess.Popen(SLEEP)
    assert not processes.await_end(child.pid, 0.1)
    child.kill()
    child.wait()
    assert processes.await_end(child.pid, 1.0)
