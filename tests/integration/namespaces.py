"""Network namespaces on this machine, each joined to the root one by a veth pair (network_namespaces(7), veth(4)).

    with namespaces(["paris", "tokyo"]) as sites:
        sites["paris"].connect()
        subprocess.run([*sites["paris"].launcher, "ip", "address"])
        sites["paris"].counters()

Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and the program `ip`. Where either is missing a test FAILS and says what is
needed: a proof that was skipped looks like a proof that held. The addresses are of 198.18.0.0/15, which RFC 2544 keeps
for tests of networks, so that no network of the machine is meant. Nothing is routed between the namespaces.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import NEIGHBOURS

PREFIX = "ksb-"
NETWORK = ipaddress.ip_network("198.18.0.0/15")
WAY_OUT = (
    "This test makes network namespaces and must not be skipped. It needs the program `ip` (package iproute2 of "
    "Debian, Ubuntu and Alpine, iproute of Fedora and RHEL) and root, or a container with CAP_NET_ADMIN, CAP_NET_RAW "
    "and CAP_SYS_ADMIN. What failed: "
)


@dataclass(frozen=True)
class Namespace:
    """A namespace and its link: `near` is the root's address on it, `far` its own, `link` the root's interface."""

    name: str
    link: str
    near: str
    far: str

    @property
    def launcher(self) -> list[str]:
        """Put before a command: it runs inside, under the pid of the child that was started."""
        return [program(), "netns", "exec", self.name]

    def counters(self) -> tuple[int, int]:
        """Packets and bytes that the kernel counted on the link since it was made, both directions."""
        folder = Path("/sys/class/net", self.link, "statistics")
        packets, size = (
            sum(int((folder / f"{way}_{kind}").read_text()) for way in ("rx", "tx")) for kind in ("packets", "bytes")
        )
        return packets, size

    def connect(self) -> None:
        """Bring the link up."""
        ip("link", "set", self.link, "up")

    def cut(self) -> None:
        """Take it down."""
        ip("link", "set", self.link, "down")


def program() -> str:
    """Path of `ip`. Fails the test where there is none."""
    found = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(WAY_OUT + "there is no program `ip` in PATH.")
    return found


def ip(*arguments: str) -> str:
    """Run `ip`; fails the test with what it said."""
    done = subprocess.run([program(), *arguments], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        pytest.fail(f"{WAY_OUT}`ip {' '.join(arguments)}` said: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def namespaces(names: Sequence[str]) -> Iterator[dict[str, Namespace]]:
    """Make them, their links still down; afterwards end every process inside and remove them."""
    sweep()
    made: dict[str, Namespace] = {}
    try:
        for index, name in enumerate(names):
            made[name] = _plan(index)
            _make(made[name])
            NEIGHBOURS.update((made[name].near, made[name].far))
        yield made
    finally:
        for namespace in made.values():
            NEIGHBOURS.difference_update((namespace.near, namespace.far))
            remove(namespace.name, namespace.link)


def _plan(index: int) -> Namespace:
    """Names and addresses that two runs on one machine do not share; an interface's name has at most 15 bytes."""
    pid = os.getpid()
    base = NETWORK.network_address + 4 * ((pid * 8 + index) % (NETWORK.num_addresses // 4))
    return Namespace(f"{PREFIX}{pid}-{index}", f"ksb{pid:x}{index}", str(base + 1), str(base + 2))


def _make(namespace: Namespace) -> None:
    ip("netns", "add", namespace.name)
    ip("link", "add", namespace.link, "type", "veth", "peer", "name", "outside", "netns", namespace.name)
    ip("address", "add", f"{namespace.near}/30", "dev", namespace.link)
    ip("-n", namespace.name, "address", "add", f"{namespace.far}/30", "dev", "outside")
    for link in ("lo", "outside"):
        ip("-n", namespace.name, "link", "set", link, "up")


def remove(name: str, link: str = "") -> None:
    """End what runs inside, then the link, which else goes a moment later, and the namespace. What is gone is fine."""
    listed = subprocess.run([program(), "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in map(int, listed.stdout.split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for command in (["link", "delete", link], ["netns", "delete", name]):
        subprocess.run([program(), *command], capture_output=True, check=False)


def sweep() -> None:
    """Remove what a run that was killed left behind: a namespace named after a process that is no more."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and owner.isdigit() and not Path("/proc", owner).exists():
            remove(name)
