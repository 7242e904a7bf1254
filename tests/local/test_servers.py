"""The embedded PostgreSQL and Valkey: rights, privacy, durability, and that nothing outlives its parent."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local import processes, secrets
from infra.local.postgres import APPLICATION, DATABASE, OWNER, Postgres, PostgresError, postgres
from infra.local.valkey import Valkey, ValkeyError, valkey

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("pg")) as running:
        yield running


def gone(pid: int, within: float = 10.0) -> bool:
    return processes.await_end(pid, within)


def listening_ports(pid: int) -> set[int]:
    """TCP ports on which `pid` listens."""
    inodes = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def test_the_application_role_is_weak_and_owns_nothing(server: Postgres) -> None:
    with psycopg.connect(server.superuser_url) as connection:
        roles = dict(
            connection.execute(
                "SELECT rolname, ARRAY[rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication]"
                " FROM pg_roles WHERE rolname = ANY(%s)",
                [[APPLICATION, OWNER]],
            ).fetchall()
        )
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [DATABASE]
        ).fetchone()
    assert roles == {APPLICATION: [False] * 5, OWNER: [False] * 5}
    assert owner == (OWNER,)
    with psycopg.connect(server.app_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE TABLE intruder ()")
    with psycopg.connect(server.owner_url) as connection:
        connection.execute("CREATE TABLE allowed ()")


def test_it_wants_a_password_and_has_no_port(server: Postgres) -> None:
    right = secrets.password(server.home, APPLICATION)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.app_url.replace(right, "wrong"))
    assert listening_ports(server.pid) == set()


def test_the_log_does_not_tell_what_a_failing_statement_held(server: Postgres) -> None:
    secret = "the-words-of-somebody"
    with psycopg.connect(server.owner_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE told (text text UNIQUE)")
        statement = f"INSERT INTO told VALUES ('{secret}')"  # noqa: S608 - a literal, as a driver may send it
        connection.execute(statement)
        with pytest.raises(psycopg.errors.UniqueViolation, match=secret):
            connection.execute(statement)
    log = server.log.read_text()
    assert "duplicate key" in log
    assert secret not in log


def test_what_was_acknowledged_survives_a_kill(server: Postgres) -> None:
    with psycopg.connect(server.owner_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.kill()
    server.start()
    with psycopg.connect(server.owner_url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_second_server_on_the_same_data_is_refused(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.postgres.END_PATIENCE", 0.2)
    with pytest.raises(PostgresError, match=f"pid {server.pid}"), postgres(server.home):
        pass
    with psycopg.connect(server.app_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_long_home_and_private_parents_work_and_stay_as_they_are(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    home = private / ("x" * 100) / ("y" * 100)
    with postgres(home) as server:
        assert len(os.fsencode(server.socket_folder / ".s.PGSQL.5432")) <= 107
        assert not server.socket_folder.is_relative_to(home)
        with psycopg.connect(server.app_url) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (APPLICATION,)
        server.restart()
        psycopg.connect(server.app_url).close()
        for folder in (home / "postgres" / "data", home / "admin", server.socket_folder):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not server.socket_folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends the server another account")
def test_root_lends_an_account_without_its_rights(server: Postgres) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    # At most the one capability to pass through private folders (capabilities(7): CAP_DAC_READ_SEARCH is bit 2).
    assert int(fields["CapEff"], 16) & ~(1 << 2) == 0


def test_valkey_wants_its_password_and_listens_on_loopback_only(tmp_path: Path) -> None:
    with valkey(tmp_path, "one") as server:
        wrong = server.url.replace(server.password, "wrong")
        with (
            redis.Redis.from_url(wrong, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        with (
            redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        assert listening_ports(server.pid) == {server.port}
        with pytest.raises(OSError, match="refused"):
            # Another loopback address: it would answer there if it listened on all.
            socket.create_connection(("127.0.0.2", server.port), timeout=2)
        assert stat.S_IMODE((tmp_path / "one" / "valkey.conf").stat().st_mode) == 0o600
        assert server.password not in Path(f"/proc/{server.pid}/cmdline").read_text()


@pytest.mark.parametrize("aof", [True, False])
def test_only_the_append_only_file_survives_a_kill(tmp_path: Path, aof: bool) -> None:
    with valkey(tmp_path, aof=aof) as server, redis.Redis.from_url(server.url) as client:
        client.set("word", "kept")
        before = (server.url, server.pid)
        time.sleep(1.2)  # appendfsync everysec
        server.kill()
        assert gone(before[1])
        server.start()
        assert server.url == before[0]
        assert client.get("word") == (b"kept" if aof else None)
        client.set("word", "kept in order")
        server.restart()
        assert client.get("word") == (b"kept in order" if aof else None)


def test_the_address_stays_the_same_over_runs_unless_somebody_took_it(tmp_path: Path) -> None:
    with valkey(tmp_path) as server:
        first = server.url
    with valkey(tmp_path) as server:
        assert server.url == first
        port = server.port
    with socket.create_server(("127.0.0.1", port)):
        with valkey(tmp_path) as server:
            assert server.port != port
        strict = Valkey(server.folder, port, server.password, server.settings, server.log)
        with pytest.raises(ValkeyError):
            strict.start()


PARENT = """
import sys, time
from pathlib import Path
from infra.local.postgres import postgres
from infra.local.valkey import valkey
with postgres(Path(sys.argv[1])) as one, valkey(Path(sys.argv[1])) as two:
    print(one.pid, two.pid, flush=True)
    time.sleep(60)
"""


def test_kill_minus_9_of_the_parent_leaves_no_server(tmp_path: Path) -> None:
    for _ in range(2):  # the second start takes up what the first left
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        ) as parent:
            assert parent.stdout is not None
            pids = [int(word) for word in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert all(processes.started_at(pid) for pid in pids)
            parent.send_signal(signal.SIGKILL)
        assert all(gone(pid) for pid in pids)
