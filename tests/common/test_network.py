"""The guard of conftest itself: tests cannot leave this machine."""

from __future__ import annotations

import asyncio
import socket

import pytest

BEYOND = ("192.0.2.1", 9)  # RFC 5737: documentation only, never routed


def test_connections_beyond_this_machine_are_refused() -> None:
    with socket.socket() as plain, pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        plain.connect(BEYOND)
    with socket.socket() as plain, pytest.raises(AssertionError):
        plain.connect_ex(BEYOND)
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(AssertionError):
        datagram.sendto(b"x", BEYOND)
    with socket.socket(socket.AF_INET6) as six, pytest.raises(AssertionError):
        six.connect(("2001:db8::1", 9))
    with pytest.raises(AssertionError):
        socket.create_connection(("example.org", 80), timeout=1)


async def test_asyncio_is_refused_too() -> None:
    with pytest.raises(AssertionError):
        await asyncio.open_connection("192.0.2.1", 9)
    with pytest.raises(AssertionError):
        await asyncio.open_connection("example.org", 80)


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
