"""The list of what a process may connect to, and a guard that refuses, counts and tells of everything else.

    install(Guard("worker", allow=["redis://broker.example:6379/0"]))

CPython raises an audit event (sys.addaudithook, PEP 578) before it connects a socket, sends a datagram or looks a name
up; the guard answers those for whatever is not on its list with `EgressRefused`, so that nothing leaves. uvloop
connects in C without such events, so its loop's methods are wrapped as well. Other C code (libpq, gRPC, gloo, ctypes)
and other programs are beyond it: the wall is a firewall or a network namespace, this is the alarm on the inside
(docs/operator/egress.md).

Only the standard library: the engine's environment, in which nothing of Kasbah is installed, loads this file by its
path (inference_worker/engine/launch.py).
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

PORTS = {
    "redis": 6379, "rediss": 6379, "valkey": 6379, "valkeys": 6379, "amqp": 5672, "amqps": 5671,
    "postgresql": 5432, "postgres": 5432, "http": 80, "https": 443,
}  # fmt: skip
DESTINATIONS = 100  # remembered one by one; what comes after them is counted together
OTHERS = "others"
LONGEST = 80  # characters of a destination that are kept: a looked-up name may carry anything
LOG_EVERY = 60.0  # seconds between two lines about one destination
RESOLVE_EVERY = 10.0  # seconds between two look-ups of the listed names
UNSHOWN = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
LOCAL_FAMILIES = frozenset({socket.AF_UNIX, getattr(socket, "AF_NETLINK", socket.AF_UNIX)})  # never leave the kernel


class EgressRefused(PermissionError):
    """A connection or look-up that is not on the process's list; nothing was sent."""


class Endpoint(NamedTuple):
    """A host, as a lower-case name or an address, and a port."""

    host: str
    port: int


@dataclass
class Attempt:
    """What was refused to one destination. Times in seconds since the epoch."""

    destination: str
    count: int
    first: float
    last: float


def endpoint(text: str) -> Endpoint | None:
    """Of a URL or `host:port`; None for a Unix socket. Raises ValueError, which repeats no password."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        if parts.scheme in {"unix", "redis+socket"} or (parts.scheme in PORTS and not parts.hostname):
            return None
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:  # its text quotes a part of the address, which may be one of the password
        port = None
    if port is None or not parts.hostname:
        raise ValueError("an endpoint is host:port, [address]:port or a URL")
    return Endpoint(_canonical(parts.hostname), port)


class Guard:
    """The list of one process. `way_out` ends the message of a refusal; `told` is called with each destination."""

    def __init__(
        self,
        process: str,
        allow: Iterable[str] = (),
        *,
        loopback: bool = False,
        way_out: str = "If it must, add it to KASBAH_EGRESS_ALLOW and start the process again.",
        told: Callable[[str], None] | None = None,
    ) -> None:
        self.process = process
        self.total = 0
        self._way_out, self._loopback, self._told = way_out, loopback, told
        self._lock = threading.Lock()
        self._owners: dict[str, frozenset[Endpoint]] = {}
        self._listed: frozenset[Endpoint] = frozenset()
        self._resolved: frozenset[Endpoint] = frozenset()
        self._looked_up = float("-inf")
        self._attempts: dict[str, Attempt] = {}
        self._logged: dict[str, float] = {}
        self._busy = threading.local()
        self.allow("settings", allow)

    def allow(self, owner: str, addresses: Iterable[str]) -> None:
        """List the endpoints of these URLs or `host:port`, instead of those that `owner` had. Raises ValueError."""
        found = frozenset(each for each in map(endpoint, addresses) if each is not None)
        with self._lock:
            if self._owners.get(owner, frozenset()) == found:
                return
            self._owners[owner] = found
            self._listed = frozenset().union(*self._owners.values())
            self._resolved, self._looked_up = frozenset(), float("-inf")

    @property
    def listed(self) -> list[Endpoint]:
        """What is allowed, sorted."""
        return sorted(self._listed)

    def attempts(self) -> list[Attempt]:
        """What was refused so far, the latest first."""
        with self._lock:
            copies = [Attempt(each.destination, each.count, each.first, each.last) for each in self._attempts.values()]
        return sorted(copies, key=lambda each: each.last, reverse=True)

    def check(self, host: object, port: object) -> None:
        """Raises EgressRefused unless this endpoint is listed, by its name or by an address of a listed name."""
        wanted = _endpoint(host, port)
        if wanted in self._listed or wanted in self._resolved or (self._loopback and _is_loopback(wanted.host)):
            return
        if _is_address(wanted.host) and wanted in self._resolve():
            return
        self._refuse(f"[{wanted.host}]:{wanted.port}" if ":" in wanted.host else f"{wanted.host}:{wanted.port}")

    def check_name(self, host: object) -> None:
        """Raises EgressRefused unless looking this name up asks nobody, or the name is on the list."""
        name = _text(host)
        if not name or _is_address(name) or name == "localhost" or any(name == each.host for each in self._listed):
            return
        self._refuse(f"{name}:dns")

    def check_address(self, address: object) -> None:
        """The same for the address of a socket call; what is no host and port is a family of its own, and refused."""
        if not isinstance(address, tuple) or len(address) < 2:
            self._refuse("anywhere:0")
        else:
            self.check(address[0], address[1])

    def _resolve(self) -> frozenset[Endpoint]:
        """Addresses of the listed names, looked up anew when the last time was a while ago."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked_up < RESOLVE_EVERY:
                return self._resolved
            self._looked_up, listed = now, self._listed
        found, failed = set[Endpoint](), False
        for name, port in listed:
            if not _is_address(name):
                try:
                    answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
                except OSError:
                    failed = True
                else:
                    found |= {Endpoint(_canonical(str(answer[4][0])), port) for answer in answers}
        if failed:
            found |= self._resolved
        with self._lock:
            if listed is self._listed:
                self._resolved = frozenset(found)
        return frozenset(found)

    def _refuse(self, destination: str) -> None:
        shown = UNSHOWN.sub("?", destination)[-LONGEST:]
        now = time.time()
        with self._lock:
            self.total += 1
            key = shown if shown in self._attempts or len(self._attempts) < DESTINATIONS else OTHERS
            attempt = self._attempts.setdefault(key, Attempt(key, 0, now, now))
            attempt.count, attempt.last = attempt.count + 1, now
            quiet = now - self._logged.get(key, 0.0) < LOG_EVERY or getattr(self._busy, "telling", False)
            if not quiet:
                self._logged[key] = now
        self._tell(key, attempt.count, quiet)
        raise EgressRefused(
            f"The {self.process} may not connect to {shown}: it is not on its list of destinations, and nothing was "
            f"sent. {self._way_out}"
        )

    def _tell(self, key: str, count: int, quiet: bool) -> None:
        """A log or a ledger may itself want to connect: what it tries meanwhile is counted and told to nobody."""
        if getattr(self._busy, "telling", False):
            return
        self._busy.telling = True
        try:
            if not quiet:
                log.warning("egress refused: the %s wanted %s (%d times so far)", self.process, key, count)
            if self._told is not None:
                self._told(key)
        finally:
            self._busy.telling = False


def _text(host: object) -> str:
    """A host as text in one form; what cannot be decoded stays visible as unlisted."""
    text = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host or "")
    return _canonical(text)


def _endpoint(host: object, port: object) -> Endpoint:
    number = int(port) if isinstance(port, int) or (isinstance(port, (str, bytes)) and port.isdigit()) else 0
    return Endpoint(_text(host), number)


@functools.lru_cache(4096)
def _canonical(host: str) -> str:
    """One spelling of an address: lower case, no scope, no closing dot, no IPv4 inside IPv6."""
    bare = host.strip("[]").partition("%")[0].rstrip(".").lower()
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@functools.lru_cache(4096)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


_installed: list[Guard] = []  # at most one; an audit hook cannot be taken back, so it looks here
_hooked: list[bool] = []


def installed() -> Guard | None:
    """The guard of this process."""
    return _installed[0] if _installed else None


def install(guard: Guard | None) -> None:
    """From now on `guard` answers in this process and in what it forks; None takes it away (tests only)."""
    _installed[:] = [guard] if guard is not None else []
    if guard is not None and not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)
        _wrap_uvloop()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """PEP 578: what this raises is raised where the audited call was made."""
    if not event.startswith("socket.") or not _installed:
        return
    guard = _installed[0]
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        sock, address = arguments[0], arguments[1]
        # None: a datagram on a socket that was connected, and checked, before.
        if address is not None and sock.family not in LOCAL_FAMILIES:
            guard.check_address(address)
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        guard.check_name(arguments[0])
    elif event == "socket.gethostbyaddr":
        guard.check(arguments[0], 0)  # asks a name server about an address
    elif event == "socket.getnameinfo":
        guard.check_address(arguments[0])


def _wrap_uvloop() -> None:
    """Let the loop of uvloop ask first: it looks names up and connects in C, and CPython hears nothing of it."""
    try:
        import uvloop
    except ImportError:
        return
    loop: Any = uvloop.Loop
    connect, datagram = loop.create_connection, loop.create_datagram_endpoint
    look_up, name_of = loop.getaddrinfo, loop.getnameinfo

    async def create_connection(self: Any, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        if (guard := installed()) is not None and options.get("sock") is None:
            guard.check(host, port)
        return await connect(self, factory, host, port, **options)

    async def create_datagram_endpoint(
        self: Any, factory: Any, local_addr: Any = None, remote_addr: Any = None, **options: Any
    ) -> Any:
        local = options.get("family") in LOCAL_FAMILIES or isinstance(local_addr, str)
        if (guard := installed()) is not None and options.get("sock") is None and not local:
            guard.check_address(remote_addr)  # without one it could send anywhere
        return await datagram(self, factory, local_addr, remote_addr, **options)

    async def getaddrinfo(self: Any, host: Any, port: Any, **options: Any) -> Any:
        if (guard := installed()) is not None:
            guard.check_name(host)
        return await look_up(self, host, port, **options)

    async def getnameinfo(self: Any, address: Any, flags: int = 0) -> Any:
        if (guard := installed()) is not None:
            guard.check_address(address)
        return await name_of(self, address, flags)

    for wrapper in (create_connection, create_datagram_endpoint, getaddrinfo, getnameinfo):
        setattr(loop, wrapper.__name__, wrapper)
