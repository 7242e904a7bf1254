"""The site's store, as the worker's event loop uses it.

One pipeline is under way at a time; what is asked meanwhile goes in the next. So a lone command waits for nothing, and
under load a round trip is shared by many (the batch grows by itself). When the store is away, commands wait and are
sent again until their patience ends; the scripts recognise what they have seen (contract/scripts.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, NoScriptError, RedisError, ResponseError, TimeoutError  # noqa: A004

log = logging.getLogger(__name__)

Argument = str | bytes | int
Command = tuple[Argument, ...]

BATCH = 256
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
_AWAY = (ConnectionError, TimeoutError, BusyLoadingError, OSError)


class StoreAway(ConnectionError):
    """The store did not answer within the patience of the command."""


class Script:
    """A Lua script, called by its digest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
        """EVALSHA with these keys and arguments."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


class _Call:
    """A command with the future of its answer; it is built when it is first sent, and then stays the same."""

    __slots__ = ("build", "command", "deadline", "future")

    def __init__(self, build: Callable[[], Command], deadline: float, future: asyncio.Future[Any]) -> None:
        self.build = build
        self.command: Command | None = None
        self.deadline = deadline
        self.future = future

    def make(self) -> bool:
        """Build the command; a defect in that is its caller's, and no other command suffers."""
        try:
            self.command = self.build()
        except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
            self.fail(error)
        return self.command is not None

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def client(url: str) -> Redis:
    """A client without retries of its own; raises ValueError for a URL that is none."""
    return Redis.from_url(
        url,
        socket_timeout=5,
        socket_connect_timeout=3,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


class Store:
    """Commands and scripts, batched. Use between `start` and `close`, from one event loop."""

    def __init__(self, redis: Redis, scripts: Sequence[Script]) -> None:
        self._redis = redis
        self._connection: Any = None
        self._scripts = scripts
        self._waiting: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.away_since: float | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="store")

    async def close(self) -> None:
        """Stop; what still waits fails with StoreAway."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for call in self._waiting:
            call.fail(StoreAway("the worker stops"))
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    def call(self, build: Callable[[], Command], *, patience: float) -> asyncio.Future[Any]:
        """Queue the command that `build` answers when its turn comes. The future raises StoreAway or RedisError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(build, time.monotonic() + patience, future))
        self._wake.set()
        return future

    def send(self, *command: Argument, patience: float = 2.0) -> asyncio.Future[Any]:
        """Queue a plain command."""
        return self.call(lambda: command, patience=patience)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
            try:
                again = await self._send(batch)
            except _AWAY as error:
                if self.away_since is None:
                    self.away_since = time.monotonic()
                    log.warning("the store is away (%s); trying again", type(error).__name__)
                again = batch
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE
                if self.away_since is not None:
                    log.warning("the store is back after %.1f s", time.monotonic() - self.away_since)
                    self.away_since = None
            self._keep(again)

    def _keep(self, calls: list[_Call]) -> None:
        now = time.monotonic()
        for call in reversed(calls):
            if now > call.deadline:
                call.fail(StoreAway("the store did not answer in time"))
            elif not call.future.done():
                self._waiting.appendleft(call)

    async def _send(self, batch: list[_Call]) -> list[_Call]:
        """One round trip; answers the calls to repeat because the store did not know their script."""
        built = [call for call in batch if call.command is not None or call.make()]
        answers = await self._exchange([call.command or () for call in built])
        again: list[_Call] = []
        for call, answer in zip(built, answers, strict=True):
            if isinstance(answer, NoScriptError):
                again.append(call)
            elif isinstance(answer, Exception):
                if isinstance(answer, _AWAY):
                    again.append(call)
                else:
                    call.fail(answer)
            elif not call.future.done():
                call.future.set_result(answer)
        if again:
            await self._exchange([("SCRIPT", "LOAD", script.source) for script in self._scripts])
        return again

    async def _exchange(self, commands: list[Command]) -> list[Any]:
        """Answers or errors of commands sent in one write. Raises when the connection fails."""
        pool: Any = self._redis.connection_pool
        if self._connection is None:
            self._connection = await pool.get_connection()
        connection = self._connection
        try:
            await connection.send_packed_command([pack(commands)], check_health=False)
            return [await _answer(connection) for _ in commands]
        except BaseException:  # what is under way on it belongs to nobody any more
            self._connection = None
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            await pool.release(connection)
            raise


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def pack(commands: Sequence[Command]) -> bytes:
    """The Redis protocol (RESP): a few times faster than redis-py's own, which knows more types."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
