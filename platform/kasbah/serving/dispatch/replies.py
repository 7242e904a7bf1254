"""The one reader of a web process at a site: all answers come on one stream, which it trims as it reads.

Whoever may write to the store may write to the stream. So each entry is taken by itself: one that is malformed, or
that its job cannot take, is dropped, counted and told of, and nothing that was read is ever read again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from redis.exceptions import RedisError

from inference_worker.contract import keys
from inference_worker.contract.bounds import line
from inference_worker.contract.loggate import LogGate
from inference_worker.contract.sealing import CannotOpen
from kasbah.serving.dispatch.store import DIGITS, client_of, sealed_frames

Entry = tuple[str, int, int, bytes]  # job, attempt, sequence, sealed frames

BLOCK_MS = 2000
SILENCE = 5.0  # an answer later than this is an error: the connection is dead
COUNT = 1024
RENEWAL = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds; a site that is back must be read at once
LONGEST_ID = 64

logger = logging.getLogger(__name__)


class ReplyReader:
    """Reads for ever. `deliver` gets each entry; `resumed` is called after anything may have been missed.

    `site` is its name for the log; `dropped` counts entries that were dropped.
    """

    def __init__(
        self, url: str, owner: str, deliver: Callable[[Entry], None], resumed: Callable[[], None], site: str = ""
    ) -> None:
        self._client = client_of(url, 2)
        self._stream = keys.replies(owner)
        self._deliver = deliver
        self._resumed = resumed
        self._site = site
        self._last = b"0-0"
        self._renewed_at = 0.0
        self._gate = LogGate()
        self.dropped = 0
        self.reading = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled. After an error reading begins again; the error is logged when it is another."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    await self._open()
                self.reading.set()
                self._resumed()
                while True:
                    async with asyncio.timeout(SILENCE):
                        await self._turn()
                    pause = FIRST_PAUSE
                    if self._gate.ended("reader"):
                        logger.warning("The replies of site %s are read again", self._site)
            except asyncio.CancelledError:
                raise
            except (RedisError, OSError, TimeoutError) as error:
                if self._gate.due("reader", type(error).__name__):
                    logger.warning("The replies of site %s cannot be read: %s", self._site, type(error).__name__)
            except Exception as error:
                if self._gate.due("reader", type(error).__name__):
                    logger.exception("The reader of the replies of site %s failed, begins again", self._site)
            self.reading.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def close(self) -> None:
        """Remove the stream, so that workers stop writing to it, and the connection."""
        try:
            async with asyncio.timeout(1):
                await self._client.delete(self._stream)
        except (RedisError, OSError, TimeoutError):
            logger.info("The stream of replies is left to expire")
        await self._client.aclose()

    async def _open(self) -> None:
        """Make the stream anew: it must exist before a worker appends, whose script writes to existing ones only.

        What lies there from before an error goes: `resumed` reads what the store keeps of each job.
        """
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.delete(self._stream)
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
        for entry, fields in answer[0][1] if answer else ():
            self._last = entry
            self._take(fields)

    def _take(self, fields: Mapping[bytes, bytes]) -> None:
        """One entry; whatever is wrong with it stays with it."""
        if b"o" in fields:
            return  # the one that made the stream
        try:
            self._deliver(entry_of(fields))
        except Exception as error:  # noqa: BLE001 - the next entry is another job's
            self.dropped += 1
            if self._gate.due("entry", type(error).__name__):
                what = line(str(error), 100) if isinstance(error, CannotOpen) else type(error).__name__
                logger.warning(
                    "A reply at site %s is dropped (%d so far), job %s: %s",
                    self._site, self.dropped, line(fields.get(b"j", b"?").decode("ascii", "replace"), 64), what,
                )  # fmt: skip


def entry_of(fields: Mapping[bytes, bytes]) -> Entry:
    """Job, attempt, sequence and sealed frames of an entry. Raises CannotOpen where it is none."""
    job, attempt = fields.get(b"j", b""), fields.get(b"a", b"")
    if len(job) > LONGEST_ID or not attempt.isdigit() or len(attempt) > DIGITS:
        raise CannotOpen("the entry names no job and attempt")
    return job.decode("ascii", "replace"), int(attempt), *sealed_frames(fields)


def _after(entry: bytes) -> bytes:
    """The smallest id beyond `entry`."""
    milliseconds, _, number = entry.partition(b"-")
    return b"%s-%d" % (milliseconds, int(number) + 1)
