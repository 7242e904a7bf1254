"""One job as its web process sees it: frames opened and put in order, retries hidden until something was handed on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum
from uuid import UUID

import msgspec

from inference_worker.contract import frames as contract_frames
from inference_worker.contract.frames import Data, Done, Failed, Frame
from inference_worker.contract.messages import Usage
from inference_worker.contract.sealing import CannotOpen, FrameCipher
from kasbah.serving.models import JobState
from kasbah.serving.records import NewJob, Outcome

NO_USAGE = Usage(0, 0)
ENGINE_FAILURES = frozenset({"engine_lost", "engine_failed"})  # codes of inference_worker/stream/failures.py

logger = logging.getLogger(__name__)


class Fed(Enum):
    """What became of sealed frames that came in."""

    TAKEN = "taken"
    OLD = "old"  # seen before, or of an attempt that was given up
    GAP = "gap"  # something before them is missing
    BAD = "bad"  # altered, or of another writer


class Assembly:
    """The frames of one attempt in the order of their sequence numbers."""

    def __init__(self, secret: bytes, job: str, attempt: int) -> None:
        self._cipher = FrameCipher(secret, job, attempt)
        self._next = 0

    def feed(self, sequence: int, sealed: bytes) -> tuple[Fed, list[Frame]]:
        """Open one entry if it is the next one."""
        if sequence < self._next:
            return Fed.OLD, []
        if sequence > self._next:
            return Fed.GAP, []
        try:
            frames = contract_frames.unpack(self._cipher.open(sequence, sealed))
        except (CannotOpen, msgspec.MsgspecError):
            return Fed.BAD, []
        self._next += 1
        return Fed.TAKEN, frames


class Running:
    """A job under way. One consumer iterates over `frames` and calls `close` when the job is settled, or was not.

    `relayed` is true once content was handed to the consumer: from then on the attempt cannot be replaced. Until
    the first content frame of a stream, and until the last frame of an answer that does not stream, all is held back.
    """

    def __init__(
        self,
        job: NewJob,
        secret: bytes,
        cancel: Callable[[Running], Awaitable[None]],
        close: Callable[[Running], None],
    ) -> None:
        self.job = job
        self.key = str(job.id)
        self.site = job.site
        self.attempt = 1
        self.ticket = job.ticket
        self.worker: UUID | None = None
        self.relayed = False
        self.moving = False  # a new attempt is being made
        self.cancelled = False
        self.unended_looks = 0  # that found the attempt marked as done in the store, without its last frame
        self.engine_failures = 0  # attempts that ended with their engine
        self.offered_at = self.started_at = time.monotonic()
        self.terminal: Done | Failed | None = None
        self._secret = secret
        self._cancel = cancel
        self._close = close
        self._assembly = Assembly(secret, self.key, 1)
        self._held: list[Frame] = []
        self._ready: list[Frame] = []
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()

    # --- the dispatcher's side

    def again(self, attempt: int, site: UUID, ticket: str) -> None:
        """Forget what the last attempt said and listen to a new one."""
        self.attempt, self.site, self.ticket, self.worker = attempt, site, ticket, None
        self.offered_at = time.monotonic()
        self._assembly = Assembly(self._secret, self.key, attempt)
        self._held = []
        self.terminal = None
        self.unended_looks = 0

    def feed(self, attempt: int, sequence: int, sealed: bytes) -> Fed:
        """Take one entry in. A terminal frame is kept in `terminal` until the dispatcher calls `finish` or `again`."""
        if attempt != self.attempt or self.terminal is not None or self.moving:
            return Fed.OLD
        fed, frames = self._assembly.feed(sequence, sealed)
        for frame in frames:
            if isinstance(frame, (Done, Failed)):
                self.terminal = frame
                break
            self._held.append(frame)
        if self._held and self.terminal is None and self.job.stream and self._has_content():
            self._hand_on()
        return fed

    def _has_content(self) -> bool:
        return self.relayed or any(isinstance(frame, Data) for frame in self._held)

    def finish(self, frame: Done | Failed) -> None:
        """Hand on what is held, and the last frame."""
        if self._ended.is_set():
            return
        self.terminal = frame
        if isinstance(frame, Failed) and not self.relayed:
            self._held = []  # nothing of an answer that failed before it began
        self._held.append(frame)
        self._ended.set()
        self._hand_on()

    def fail(self, status: int, code: str, message: str) -> None:
        """End with an error of the dispatcher's own."""
        self.finish(Failed(status=status, code=code, message=message, usage=NO_USAGE))

    def _hand_on(self) -> None:
        self.relayed = True
        self._ready += self._held
        self._held = []
        self._wake.set()

    @property
    def ended(self) -> bool:
        """Whether the last frame is there."""
        return self._ended.is_set()

    # --- the consumer's side

    async def frames(self) -> AsyncIterator[list[Frame]]:
        """All frames that are there at each wake-up; the last list ends with Done or Failed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            ready, self._ready = self._ready, []
            if ready:
                yield ready
                if contract_frames.is_terminal(ready[-1]):
                    return

    def left(self) -> list[Frame]:
        """Frames that came and that nobody took; they are taken now."""
        left, self._ready = self._ready, []
        return left

    async def cancel(self, wait: float = 2.0) -> Done | Failed | None:
        """Stop the engine and wait for the worker's last word, for what was generated is metered.

        None: it did not come in time. Then leave the row as it is: housekeeping settles it from the store.
        """
        if not self.ended:
            self.cancelled = True
            await self._cancel(self)
        try:
            async with asyncio.timeout(wait):
                await self._ended.wait()
        except TimeoutError:
            return None
        return self.terminal

    def outcome(self, frame: Done | Failed) -> Outcome:
        """What to settle for this last frame."""
        return outcome_of(self.job.id, self.job.tenant_id, self.attempt, self.worker, frame)

    def close(self) -> None:
        """Forget the job: its row is no longer kept from the sweeper. Harmless twice."""
        self._close(self)


def outcome_of(job: UUID, tenant: UUID, attempt: int, worker: UUID | None, frame: Done | Failed) -> Outcome:
    """The outcome that a terminal frame means."""
    state, code = JobState.SUCCEEDED, ""
    if isinstance(frame, Failed):
        refused = frame.status in {401, 403}
        state, code = (JobState.REFUSED if refused else JobState.FAILED), frame.code
    elif frame.cancelled:
        state = JobState.CANCELLED
    return Outcome(
        job_id=job,
        tenant_id=tenant,
        attempt=attempt,
        state=state.value,
        prompt_tokens=frame.usage.prompt_tokens,
        completion_tokens=frame.usage.completion_tokens,
        exact=frame.usage.exact,
        error_code=code[:60],
        receipt=frame.receipt,
        worker_id=worker,
    )
