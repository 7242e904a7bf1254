"""The one reader of a web process at a site: all answers come on one stream, which it trims as it reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from inference_worker.contract import keys
from kasbah.serving.dispatch.store import client_of

Entry = tuple[str, int, int, bytes]  # job, attempt, sequence, sealed frames

BLOCK_MS = 2000
SILENCE = 5.0  # an answer later than this is an error: the connection is dead
COUNT = 1024
RENEWAL = 10.0

logger = logging.getLogger(__name__)


class ReplyReader:
    """Reads for ever. `deliver` gets what came; `resumed` is called after anything may have been missed."""

    def __init__(
        self, url: str, owner: str, deliver: Callable[[Iterable[Entry]], None], resumed: Callable[[], None]
    ) -> None:
        self._client = client_of(url, 2)
        self._stream = keys.replies(owner)
        self._deliver = deliver
        self._resumed = resumed
        self._last = b"0-0"
        self._renewed_at = 0.0
        self.reading = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled; an error is said, and reading begins again."""
        pause = 0.05
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    await self._open()
                self.reading.set()
                self._resumed()
                while True:
                    async with asyncio.timeout(SILENCE):
                        await self._turn()
                    pause = 0.05
            except asyncio.CancelledError:
                raise
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning("The reader of replies lost its store, tries again: %s", type(error).__name__)
            except Exception:
                logger.exception("The reader of replies failed, begins again")
            self.reading.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def close(self) -> None:
        """Remove the stream, so that workers stop writing to it, and the connection."""
        try:
            async with asyncio.timeout(1):
                await self._client.delete(self._stream)
        except (RedisError, OSError, TimeoutError):
            logger.info("The stream of replies is left to expire")
        await self._client.aclose()

    async def _open(self) -> None:
        """The stream must exist before a worker appends: its script writes to existing ones only."""
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(self._stream, {b"o": b""})
            pipeline.expire(self._stream, keys.REPLIES_TTL)
            await pipeline.execute()
        # A store that lost its data may count from an earlier time again.
        self._last, self._renewed_at = b"0-0", time.monotonic()

    async def _turn(self) -> None:
        if time.monotonic() - self._renewed_at > RENEWAL:
            if not await self._client.expire(self._stream, keys.REPLIES_TTL):
                await self._open()
                self._resumed()
            self._renewed_at = time.monotonic()
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.xtrim(self._stream, minid=_after(self._last), approximate=False)
            pipeline.xread({self._stream: self._last}, count=COUNT, block=BLOCK_MS)
            _, answer = await pipeline.execute()
        if answer:
            entries = answer[0][1]
            self._last = entries[-1][0]
            self._deliver(
                (fields[b"j"].decode(), int(fields[b"a"]), int(fields[b"s"]), fields[b"f"])
                for _, fields in entries
                if b"j" in fields
            )


def _after(entry: bytes) -> bytes:
    """The smallest id beyond `entry`."""
    milliseconds, _, number = entry.partition(b"-")
    return b"%s-%d" % (milliseconds, int(number) + 1)
