"""A site's broker and stream store, as the control plane speaks to it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from inference_worker.contract import keys, scripts
from inference_worker.contract.sealing import CannotOpen
from kasbah.common import stores

Call = tuple[Sequence[str], Sequence[str | int | bytes]]  # keys and arguments of one call of a script
DIGITS = 10  # of a sequence number or an attempt


logger = logging.getLogger(__name__)


class StoreAway(Exception):
    """The site's store did not answer in time, or refused; the message names no address and no password."""


def sealed_frames(fields: Mapping[bytes, bytes]) -> tuple[int, bytes]:
    """Sequence number and sealed frames of an entry of a stream. Raises CannotOpen where it holds none."""
    number, sealed = fields.get(b"s", b""), fields.get(b"f")
    if sealed is None or not number.isdigit() or len(number) > DIGITS:
        raise CannotOpen("an entry of the stream holds no frames")
    return int(number), sealed


def _frames_of(job: str, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[tuple[int, bytes]]:
    """What the entries of a job's stream hold; those that hold none are passed over, and told of."""
    found = []
    for _, fields in entries:
        try:
            found.append(sealed_frames(fields))
        except CannotOpen as error:
            logger.warning("Frames of job %s are passed over: %s", job, error)
    return found


def client_of(url: str, connections: int) -> Redis:
    """An asynchronous client without patience of its own: its callers say how long they wait.

    It sends again only what met a connection that was gone, once. It has no socket timeout: with one redis-py sends
    through `asyncio.wait_for`, which in Python 3.11 swallows a cancellation that comes at the wrong moment.
    """
    return Redis.from_url(
        url,
        max_connections=connections,
        retry=stores.async_retry(),
        socket_timeout=None,
        socket_connect_timeout=2.0,
        protocol=2,
    )


def digest(script: str) -> str:
    """What EVALSHA calls a script by."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Store:
    """Pipelined commands with a short patience. The reader of replies has a connection of its own."""

    def __init__(self, url: str, timeout: float) -> None:
        self._timeout = timeout
        self.client = client_of(url, 16)

    async def close(self) -> None:
        """Give the connections up."""
        await self.client.aclose()

    async def run(self, script: str, calls: Sequence[Call]) -> list[Any]:
        """One answer of `script` for each call, in one pipeline. Raises StoreAway."""
        try:
            async with asyncio.timeout(self._timeout * 2):
                answers = await self._pipeline(script, calls)
                missing = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
                if missing:  # the first call since the store was started
                    await self.client.script_load(script)
                    again = await self._pipeline(script, [calls[index] for index in missing])
                    for index, answer in zip(missing, again, strict=True):
                        answers[index] = answer
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(type(error).__name__) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise StoreAway(str(answer)) from answer
        return answers

    async def _pipeline(self, script: str, calls: Sequence[Call]) -> list[Any]:
        name = digest(script)
        async with self.client.pipeline(transaction=False) as pipeline:
            for names, arguments in calls:
                pipeline.evalsha(name, len(names), *names, *arguments)
            return list(await pipeline.execute(raise_on_error=False))

    async def values(self, names: Sequence[str]) -> list[bytes | None]:
        """MGET. Raises StoreAway."""
        try:
            async with asyncio.timeout(self._timeout):
                values: list[Any] = await self.client.mget(names) if names else []
                return values
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(type(error).__name__) from error

    async def ping(self) -> None:
        """Raises StoreAway."""
        try:
            async with asyncio.timeout(self._timeout):
                await self.client.ping()
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(type(error).__name__) from error

    async def problem(self) -> str:
        """What is wrong with it though it answers; "" for nothing (stores.problem). Raises StoreAway."""
        try:
            async with asyncio.timeout(self._timeout):
                return await stores.problem(self.client)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(type(error).__name__) from error

    async def frames(self, job: str, attempt: int) -> list[tuple[int, bytes]]:
        """All (sequence, sealed frames) that the store keeps of an attempt. Raises StoreAway."""
        try:
            async with asyncio.timeout(self._timeout * 2):
                entries: Any = await self.client.xrange(keys.frames(job, attempt))
        except ResponseError as error:
            logger.warning("The frames of job %s cannot be read: %s", job, error)
            return []
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(type(error).__name__) from error
        return _frames_of(job, entries)


class SyncStore:
    """The same for housekeeping, which is synchronous."""

    def __init__(self, url: str, timeout: float) -> None:
        self.client: SyncRedis = SyncRedis.from_url(
            url,
            retry=stores.sync_retry(),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
        )

    def close(self) -> None:
        """Give the connections up."""
        self.client.close()

    def run(self, script: str, calls: Sequence[Call]) -> list[Any]:
        """One answer of `script` for each call. Raises StoreAway."""
        try:
            self.client.script_load(script)
            with self.client.pipeline(transaction=False) as pipeline:
                for names, arguments in calls:
                    pipeline.evalsha(digest(script), len(names), *names, *arguments)
                return list(pipeline.execute())
        except (RedisError, OSError) as error:
            raise StoreAway(type(error).__name__) from error

    def values(self, names: Sequence[str]) -> list[bytes | None]:
        """Each key's value, None where it has none or is no string. Raises StoreAway."""
        if not names:
            return []
        (values,) = self._each("MGET", [tuple(names)])
        return list(values)

    def put(self, name: str, value: bytes | str, seconds: int | None = None) -> None:
        """Set a key, for so many seconds. Raises StoreAway."""
        self._each("SET", [(name, value) if seconds is None else (name, value, "EX", seconds)])

    def entries(self, stream: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The first entries of a stream; what else lies under its name goes. Raises StoreAway."""
        try:
            try:
                entries: Any = self.client.xrange(stream, count=count)
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                logger.warning("What lies at %s is no stream; it is removed", stream)
                self.client.delete(stream)
                entries = []
        except (RedisError, OSError) as error:
            raise StoreAway(type(error).__name__) from error
        return list(entries)

    def remove(self, stream: str, entries: Sequence[bytes]) -> None:
        """Remove entries of a stream. Raises StoreAway."""
        if entries:
            self._each("XDEL", [(stream, *entries)])

    def delete(self, names: Sequence[str]) -> int:
        """Delete keys; returns how many were there. Raises StoreAway."""
        return sum(int(answer) for answer in self._each("DEL", [(name,) for name in names]))

    def exist(self, names: Sequence[str]) -> list[bool]:
        """Whether each key exists. Raises StoreAway."""
        return [bool(answer) for answer in self._each("EXISTS", [(name,) for name in names])]

    def first_time(self, names: Sequence[str], seconds: int) -> list[bool]:
        """Make each key for that long; whether it was not there before. Raises StoreAway."""
        return [bool(answer) for answer in self._each("SET", [(name, "1", "NX", "EX", seconds) for name in names])]

    def _each(self, command: str, calls: Sequence[tuple[str | int | bytes, ...]]) -> list[Any]:
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for arguments in calls:
                    pipeline.execute_command(command, *arguments)  # type: ignore[no-untyped-call]
                return list(pipeline.execute())
        except (RedisError, OSError) as error:
            raise StoreAway(type(error).__name__) from error

    def frames(self, job: str, attempt: int) -> list[tuple[int, bytes]]:
        """All (sequence, sealed frames) of one attempt. Raises StoreAway."""
        try:
            entries: Any = self.client.xrange(keys.frames(job, attempt))
        except ResponseError as error:
            logger.warning("The frames of job %s cannot be read: %s", job, error)
            return []
        except (RedisError, OSError) as error:
            raise StoreAway(type(error).__name__) from error
        return _frames_of(job, entries)

    def last_frames(self, names: Sequence[tuple[str, int]]) -> list[tuple[int, bytes] | None]:
        """The last (sequence, sealed frames) of each (job, attempt). Raises StoreAway."""
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for job, attempt in names:
                    pipeline.xrevrange(keys.frames(job, attempt), count=1)
                answers = pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise StoreAway(type(error).__name__) from error
        found = []
        for (job, _), answer in zip(names, answers, strict=True):
            entries = [] if isinstance(answer, ResponseError) else _frames_of(job, answer)
            found.append(entries[0] if entries else None)
        return found


def look_call(job: str, deployment: str, *, listed: bool) -> Call:
    """Arguments of LOOK for one job. `listed`: its queue is a list in this very store."""
    names = [keys.job(job), keys.offered(deployment)]
    return [*names, keys.queue(deployment)] if listed else names, ()


LOOK, CANCEL, OFFER, REFUSE = scripts.LOOK, scripts.CANCEL, scripts.OFFER, scripts.REFUSE
MARK, MISS = scripts.MARK, scripts.MISS
