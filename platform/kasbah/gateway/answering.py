"""One answer under way: frames from the worker to the client, the end settled before the last bytes go out.

The status of a stream is held back until the first content, so that a failure before it is a true status; after
`hold` seconds in a queue the stream begins with comments instead (docs/decisions/0007). A client that is gone, or
does not read, stops the engine; what was generated is metered all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from inference_worker.contract.frames import Body, Data, Done, Failed, Frame, Role
from kasbah.audit.services.content import StreamForm
from kasbah.common.errors import KasbahError, Unavailable
from kasbah.gateway import refusals, settlement, sse
from kasbah.gateway.admission import Admitted
from kasbah.gateway.exchange import EVENT_STREAM, JSON, ClientGone, Exchange, Headers
from kasbah.gateway.idempotency import LARGEST_ANSWER, Kept
from kasbah.gateway.runtime import Runtime
from kasbah.serving.services import Running

COMMENT_EVERY = 5.0  # seconds between two comments of a stream that waits
LAST_WORD = 2.0  # seconds a worker has to say what it did for a client that is gone
LAST_WORD_AT_END = 1.0  # the same while the process ends

logger = logging.getLogger(__name__)


class Answering:
    """Relays one job's answer to one exchange; `run` returns when the job is settled or left to housekeeping."""

    def __init__(self, runtime: Runtime, exchange: Exchange, admitted: Admitted, running: Running) -> None:
        self._runtime = runtime
        self._exchange = exchange
        self._admitted = admitted
        self._running = running
        self._streams = admitted.wish.body.streams
        self._answer_id = f"{admitted.wish.endpoint.prefix}-{exchange.request_id}"
        self._headers = admitted.headers()
        self._interrupt: asyncio.Timeout | None = None
        self._stopped = ""  # why, when it was interrupted
        self._waiting: asyncio.Task[None] | None = None
        self._kept: list[bytes] | None = [] if admitted.may_keep else None
        self._kept_size = 0
        self._form = StreamForm() if self._streams and admitted.place is not None else None
        self._first_at = 0.0
        self._started_at = time.perf_counter()

    def stop(self, reason: str) -> None:
        """Interrupt the relay; harmless once it is settling."""
        if self._interrupt is not None and not self._interrupt.expired():
            self._stopped = reason
            self._interrupt.reschedule(0)

    async def run(self) -> None:
        """Relay until the end, whatever that is. Raises KasbahError while nothing was sent."""
        runtime = self._runtime
        watcher = asyncio.create_task(self._watch())
        hold = asyncio.get_running_loop().call_later(runtime.hold, self._wait_aloud) if self._streams else None
        runtime.drain.answers.add(self)
        try:
            await self._relay_or_stop()
        except KasbahError as error:
            await self._end_waiting()
            if not self._exchange.begun:
                error.headers = {**_text(self._all_headers()), **error.headers}
                raise
            with suppress(ClientGone):
                await self._exchange.write(sse.error_event(error), more=False)
            self._exchange.notes["code"] = error.code
        finally:
            if hold is not None:
                hold.cancel()
            await self._end_waiting()
            watcher.cancel()
            runtime.drain.answers.discard(self)

    async def _relay_or_stop(self) -> None:
        try:
            async with asyncio.timeout(None) as interrupt:
                self._interrupt = interrupt
                last, rest = await (self._relay_stream() if self._streams else self._relay_body())
                self._interrupt = None  # from here on it ends by itself
        except TimeoutError:
            await self._give_up()
        except ClientGone:
            self._stopped = "client_gone"
            await self._give_up()
        else:
            await self._finish(last, rest)

    async def _watch(self) -> None:
        await self._exchange.gone()
        self.stop("client_gone")

    # --- the way of the frames

    async def _relay_stream(self) -> tuple[Done | Failed, bytes]:
        """Send what comes; answers the last frame and the events that came with it, which wait for the settling."""
        events: sse.Events | None = None
        async for frames in self._running.frames():
            if events is None:
                self._first_at = time.perf_counter()
                wish = self._admitted.wish
                events = sse.Events(
                    self._answer_id,
                    self._running.attempt,
                    include_usage=wish.body.include_usage,
                    ids=wish.resume_within > 0,
                )
            data = b"".join([events.chunk(frame) for frame in frames if isinstance(frame, (Data, Role))])
            self._note(frames)
            last = frames[-1]
            if isinstance(last, Failed):
                return last, data
            if isinstance(last, Done):
                return last, data + events.end(last.usage)
            await self._begin_stream()
            await self._send(data, more=True)
        raise Unavailable("The answer ended without an end.", code="worker_lost")

    async def _relay_body(self) -> tuple[Done | Failed, bytes]:
        """Wait for the whole answer."""
        body = b""
        async for frames in self._running.frames():
            self._first_at = self._first_at or time.perf_counter()
            for frame in frames:
                if isinstance(frame, Body):
                    body = sse.Renamed(self._answer_id)(frame.body)
            last = frames[-1]
            if isinstance(last, (Done, Failed)):
                return last, body
        raise Unavailable("The answer ended without an end.", code="worker_lost")

    async def _begin_stream(self) -> None:
        await self._end_waiting()
        if not self._exchange.begun:
            await self._exchange.begin(200, (EVENT_STREAM, (b"x-accel-buffering", b"no"), *self._all_headers()))

    async def _send(self, data: bytes, *, more: bool) -> None:
        self._keep(data)
        await self._exchange.write(data, more=more)

    def _note(self, frames: Sequence[Frame]) -> None:
        """What the client gets, or can still get by taking the stream up again, is what is committed to."""
        if self._form is not None:
            for frame in frames:
                if isinstance(frame, (Data, Role)):
                    self._form.add(frame.chunk)

    def _keep(self, data: bytes) -> None:
        if self._kept is not None:
            self._kept.append(data)
            self._kept_size += len(data)
            if self._kept_size > LARGEST_ANSWER:
                self._kept = None

    def _all_headers(self) -> Headers:
        return (*self._headers, (b"kasbah-site", self._admitted.site_slug(self._running.site).encode()))

    # --- while nothing comes

    def _wait_aloud(self) -> None:
        if not self._exchange.begun and not self._stopped and self._interrupt is not None:
            self._waiting = asyncio.create_task(self._comment())

    async def _comment(self) -> None:
        # Where it will run is not yet sure: the site stands in the receipt alone.
        await self._exchange.begin(200, (EVENT_STREAM, (b"x-accel-buffering", b"no"), *self._headers))
        try:
            while True:
                await self._exchange.write(sse.WAITING, more=True)
                await asyncio.sleep(COMMENT_EVERY)
        except ClientGone:
            self.stop("client_gone")

    async def _end_waiting(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.cancel()
            await asyncio.wait([waiting])

    # --- the end

    async def _finish(self, last: Done | Failed, rest: bytes) -> None:
        """Settle, then send what is left."""
        if isinstance(last, Done) and not last.cancelled:
            self._keep(rest)
        await self._settle(last, rest)
        if isinstance(last, Failed):
            error = refusals.Failure(last.status, last.code, last.message, last.param)
            if rest and not self._exchange.begun:
                await self._begin_stream()
            if rest:
                await self._exchange.write(rest, more=True)
            raise error
        if last.cancelled:
            raise Unavailable("The request was cancelled.", code="cancelled")
        if self._streams:
            await self._begin_stream()
            with suppress(ClientGone):
                await self._exchange.write(rest, more=False)
        else:
            await self._exchange.answer(200, rest, self._all_headers())

    async def _give_up(self) -> None:
        """Stop the engine, meter what it did, and tell the client if there still is one."""
        self._interrupt = None
        self._exchange.notes["stopped"] = self._stopped
        last = await self._go_on_alone(self._admitted.wish.resume_within) if self._stopped == "client_gone" else None
        ending = self._stopped == "server_shutting_down"
        last = last or await self._running.cancel(LAST_WORD_AT_END if ending else LAST_WORD)
        if last is not None:
            with suppress(Unavailable):  # housekeeping settles what could not be
                self._note(self._running.left())
                await self._settle(last, b"", kept=False)
        if ending:
            raise refusals.shutting_down()

    async def _go_on_alone(self, seconds: int) -> Done | Failed | None:
        """Let the engine go on for a client that wants to come back; None when it is not done in time."""
        if not self._streams or seconds == 0:
            return None
        try:
            async with asyncio.timeout(seconds) as self._interrupt:
                async for frames in self._running.frames():
                    self._note(frames)
                    last = frames[-1]
                    if isinstance(last, (Done, Failed)):
                        return last
        except TimeoutError:
            return None
        finally:
            self._interrupt = None
        return None

    async def _settle(self, last: Done | Failed, body: bytes, *, kept: bool = True) -> None:
        """Commit the end. `body`: the answer of a request that does not stream.

        Raises Unavailable when it cannot be, or when somebody else ended the job.
        """
        notes = self._exchange.notes
        notes["tokens"] = f"{last.usage.prompt_tokens}/{last.usage.completion_tokens}"
        answer = None
        if kept and self._kept is not None:
            content_type = EVENT_STREAM if self._streams else JSON
            answer = Kept([content_type, *self._all_headers()], b"".join(self._kept))
        now = time.perf_counter()
        milliseconds = {"total": round((now - self._started_at) * 1000)}
        if self._first_at:
            milliseconds["first"] = round((self._first_at - self._started_at) * 1000)
        said = self._form.bytes() if self._form is not None else body
        if not self._streams and (isinstance(last, Failed) or last.cancelled):
            said = b""  # an error goes out instead
        await settlement.settle(
            self._runtime,
            self._admitted,
            self._running,
            last,
            said=said,
            answer=answer,
            keeps=kept,
            milliseconds=milliseconds,
        )


def _text(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
