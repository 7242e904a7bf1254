"""Run as a process of its own: makes the calls it is told, with the guard or without, and prints what became of them.

python egress_calls.py ALLOW on|off PORT CALLS     (ALLOW and CALLS, pairs of name and host, are JSON)
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from inference_worker.contract import egress

PORT = int(sys.argv[3])
Call = Callable[[str], Awaitable[Any]]


def tcp(host: str) -> None:
    socket.create_connection((host, PORT), 2).close()


def tcp_ex(host: str) -> None:
    with socket.socket() as plain:
        plain.connect_ex((host, PORT))


def udp(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.sendto(b"x", (host, PORT))


def message(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.sendmsg([b"x"], [], 0, (host, PORT))


async def connected(host: str) -> None:
    _, writer = await asyncio.open_connection(host, PORT)
    writer.close()


async def datagram(host: str) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, PORT))
    transport.close()


async def unconnected(host: str) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", (host, PORT))
    transport.close()


async def looked_up(host: str) -> None:
    await asyncio.get_running_loop().getaddrinfo(host, PORT)


def standard(call: Call) -> Callable[[str], None]:
    def run(host: str) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(call(host))  # type: ignore[arg-type]

    return run


def native(call: Call) -> Callable[[str], None]:
    return lambda host: uvloop.run(call(host))  # type: ignore[arg-type]


CALLS: dict[str, Callable[[str], Any]] = {
    "tcp": tcp,
    "tcp_ex": tcp_ex,
    "udp": udp,
    "message": message,
    "look_up": lambda host: socket.getaddrinfo(host, PORT),
    "by_name": socket.gethostbyname,
    "by_address": socket.gethostbyaddr,
    "name_of": lambda host: socket.getnameinfo((host, PORT), 0),
    "asyncio_connected": standard(connected),
    "asyncio_datagram": standard(datagram),
    "asyncio_looked_up": standard(looked_up),
    "uvloop_connected": native(connected),
    "uvloop_datagram": native(datagram),
    "uvloop_looked_up": native(looked_up),
    "uvloop_unconnected": native(unconnected),
}


def main() -> None:
    """See above."""
    told: list[str] = []
    guard = egress.Guard("test", json.loads(sys.argv[1]), told=told.append)
    if sys.argv[2] == "on":
        egress.install(guard)
    outcome, last = {}, ""
    for name, host in json.loads(sys.argv[4]):
        try:
            CALLS[name](host)
            outcome[f"{name} {host}"] = "done"
        except egress.EgressRefused as error:
            outcome[f"{name} {host}"], last = "refused", str(error)
        except OSError as error:
            outcome[f"{name} {host}"] = type(error).__name__
    attempts = [[each.destination, each.count] for each in guard.attempts()]
    print(json.dumps({"outcome": outcome, "told": told, "total": guard.total, "last": last, "attempts": attempts}))


if __name__ == "__main__":
    main()
