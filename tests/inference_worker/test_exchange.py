"""One connection to the engine carries many exchanges, one after the other: ending one late must not touch the next."""

from __future__ import annotations

import asyncio
from pathlib import Path

from inference_worker.engine.client import EngineClient


async def test_aborting_what_has_ended_leaves_the_connection_to_its_next_exchange(tmp_path: Path) -> None:
    connections = 0
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for number in range(2):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            if number == 1:
                await answered.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "engine.sock")
    client = EngineClient(tmp_path / "engine.sock")
    first = await client.start("POST", "/v1/completions", b"{}", None)
    await first.finished
    second = await client.start("POST", "/v1/completions", b"{}", None)
    first.abort(RuntimeError("its job was stopped while it wrote what the engine had said"))
    answered.set()
    async with asyncio.timeout(2):
        await second.finished
    assert (second.status, bytes(second.body)) == (200, b"{}")
    assert connections == 1  # it was the same one
    server.close()
