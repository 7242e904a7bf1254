"""Relays bytes between a loopback port and a Unix socket; some programs can only be told a port."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class _Half(asyncio.Protocol):
    """One side of a connection; what it receives goes to the other."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def main(port: int, path: str) -> None:
    """Listen until ended."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def join(front: _Half) -> None:
        _, back = await loop.create_unix_connection(_Half, path)
        back.other, front.other = front.transport, back.transport
        front.other.writelines(front.early)

    def accept() -> _Half:
        front = _Half()
        task = loop.create_task(join(front))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return front

    server = await loop.create_server(accept, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
