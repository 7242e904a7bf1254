"""A RabbitMQ node of a test's own: loopback, its own folder, ports and cookie; ended by its process ids.

KASBAH_TEST_AMQP names the program `rabbitmq-server` (Debian: /usr/lib/rabbitmq/bin/rabbitmq-server; the one in
/usr/sbin changes the user and the folder, and is not for this).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from kombu import Connection

START_WITHIN = 90.0  # seconds: Erlang on a busy machine with two cores


def program() -> str:
    """Path of rabbitmq-server; "" when the tests of RabbitMQ are not wanted."""
    return os.environ.get("KASBAH_TEST_AMQP", "")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class RabbitMQ:
    """One node. `url` has the user guest, whom RabbitMQ lets in from the loopback only."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self._distribution, self._epmd_port = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the machine's own RabbitMQ, and no port that is not the loopback's."""
        home = str(self.home)
        return {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"ksb{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
            "RABBITMQ_MNESIA_BASE": f"{home}/data",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_CONFIG_FILE": f"{home}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/none",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
            "RABBITMQ_PID_FILE": f"{home}/pid",
        }

    def start(self) -> None:
        """Returns once it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        cookie = self.home / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(0o600)
            cookie.write_text(secrets.token_hex(16))
            (self.home / "plugins").write_text("[].")
        if self._epmd is None:
            names = shutil.which("epmd")
            assert names is not None, "epmd, Erlang's name server, is not on the PATH"
            command = [names, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(command, env=self.environment)
        with (self.home / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [program()], cwd=self.home, env=self.environment, stdout=console, stderr=console, start_new_session=True
            )
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, (self.home / "console").read_text()
            try:
                with Connection(self.url, connect_timeout=1) as connection:
                    connection.connect()
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("RabbitMQ did not start: " + (self.home / "console").read_text())

    def kill(self) -> None:
        """SIGKILL, as by a power failure; the data stay."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session: the shell, and Erlang below it
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        """End all of it."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)


@contextlib.contextmanager
def rabbitmq(home: Path) -> Iterator[RabbitMQ]:
    """A node that answers, ended afterwards."""
    node = RabbitMQ(home)
    try:
        node.start()
        yield node
    finally:
        node.close()
