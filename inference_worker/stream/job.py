"""One job from its claim to its receipt: the engine's answer becomes sealed frames in the store.

The job writes while the engine speaks: what came while one write was under way goes in the next (self-clocking).
Every write is fenced by the attempt. The job stops the engine when the client went away, when another attempt took
over, and when the store could not be told within the lease that it is still alive.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum

import msgspec
from redis.exceptions import RedisError

from inference_worker.contract import frames, keys, scripts, sealing
from inference_worker.contract.frames import Body, Data, Done, Failed, Frame, Role
from inference_worker.contract.messages import JobMessage, Payload, Receipt, Ticket, Usage, sha256_hex, signed
from inference_worker.contract.settings import integer
from inference_worker.contract.signing import Purpose
from inference_worker.engine.client import EngineClient, EngineLost, Exchange
from inference_worker.engine.grammars import GrammarGuard, GrammarsUnavailable, Verdict
from inference_worker.identity import Identity
from inference_worker.store import Command, Script, Store, StoreAway
from inference_worker.stream import chunks, failures, request
from inference_worker.stream.failures import Failure

log = logging.getLogger(__name__)

LEASE_MS = integer("LEASE_MS", 10_000, least=100, most=3_600_000)  # the control plane reads the same setting
LEASE = LEASE_MS / 1000  # seconds
CLAIM, APPEND = Script(scripts.CLAIM), Script(scripts.APPEND)
COUNT_TIMEOUT = 2.0


class Stop(Enum):
    """Why a job is stopped before its end."""

    CANCELLED = "the client went away"
    STALE = "another attempt took over"
    LEASE_LOST = "the store could not be reached within the lease"
    LEAVING = "the worker stops"


GONE = (Stop.STALE, Stop.LEASE_LOST)  # nothing more may be written


class Stopped(Exception):
    """Raised through the engine's exchange when a job is stopped."""

    def __init__(self, reason: Stop) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Site(msgspec.Struct, frozen=True):
    """What all jobs of a worker share; `count_stale` is told of each write that the fence refused, `count_answer` of
    each answer that the store took whole."""

    store: Store
    identity: Identity
    count_stale: Callable[[], None]
    count_answer: Callable[[], None]


class Target(msgspec.Struct, frozen=True):
    """The engine that a job goes to; `on_lost` is told at once when its connection ends before the answer does."""

    client: EngineClient
    grammars: GrammarGuard
    model: str
    model_digest: str
    engine: str
    on_lost: Callable[[], None]


class Job:
    """One attempt of one job. `run` never raises: what happened is in the frames, or nowhere when it was fenced off."""

    def __init__(self, site: Site, target: Target, ticket: Ticket, message: JobMessage, payload: Payload) -> None:
        self.id, self.attempt = ticket.job, ticket.attempt
        self.renewed = time.monotonic()
        self._site, self._target, self._ticket, self._payload = site, target, ticket, payload
        self._ticket_sha256 = sha256_hex(message.ticket)
        self._reply_to = message.reply_to
        self._claim = os.urandom(8).hex()
        self._cipher = sealing.FrameCipher(payload.reply_secret, ticket.job, ticket.attempt)
        self._commitment = hmac.new(sealing.derive(payload.reply_secret, "kasbah-output-v1"), digestmod=hashlib.sha256)
        self._events = chunks.Events()
        self._counter = chunks.Counter()
        self._pending: list[Frame] = []
        self._sequence = 0
        self._writing: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._stopped: Stop | None = None
        self.ending = False  # its last frame was handed to the store
        self._started = _now()

    @property
    def key(self) -> str:
        """Its hash in the store."""
        return keys.job(self.id)

    def stop(self, reason: Stop) -> None:
        """End it early; the first reason stays. Safe to call at any time from the loop."""
        if self._stopped is None:
            self._stopped = reason
            if reason is Stop.STALE:
                self._site.count_stale()
            if self._exchange is not None:
                self._exchange.abort(Stopped(reason))

    async def claim(self) -> bool:
        """Whether this worker may run it. A job that was cancelled while it waited may too, to say so."""
        asked = time.monotonic()
        command = CLAIM.command([self.key], [self.attempt, self._site.identity.worker, LEASE_MS, self._claim])
        answer = await self._site.store.call(lambda: command, patience=LEASE / 2)
        self.renewed = asked
        if answer == scripts.CANCELLED:
            self._stopped = Stop.CANCELLED
        elif answer == scripts.STALE:
            self._site.count_stale()
        return answer in (scripts.OK, scripts.CANCELLED)

    async def run(self) -> None:
        """Drive the engine and write everything up to the last frame."""
        last: Done | Failed | None
        try:
            last = await self._drive()
        except Exception as error:
            log.exception("job %s: %s", self.id, type(error).__name__, exc_info=_without_values(error))
            last = self._failed(failures.WORKER)
        if last is not None and self._stopped not in GONE:
            await self._write_last(last)

    async def _drive(self) -> Done | Failed | None:
        """Ask the engine; answers the last frame, or None when nothing may be written any more."""
        asked: request.EngineRequest | None = None
        try:
            identity = self._site.identity
            salt = request.cache_salt(identity.salt_key, self._ticket.tenant, identity.cache_epoch)
            asked = request.prepare(self._payload, model=self._target.model, salt=salt)
            self._counter = chunks.Counter(asked.n, asked.prompts)
            return await self._ask(asked)
        except Stopped as stopped:
            return await self._after_stop(stopped.reason, asked)
        except request.RequestRefused as refused:
            failure = Failure(400, "invalid_request", str(refused), refused.param)
        except chunks.StreamFailed as failed:
            failure = failures.of_error(failed.error, asked)
        except GrammarsUnavailable as error:
            log.error("job %s: %s", self.id, error)  # noqa: TRY400 - its text says it all
            failure = failures.WORKER
        except EngineLost:
            self._target.on_lost()
            failure = failures.ENGINE_LOST
        return self._failed(failure)

    async def _ask(self, asked: request.EngineRequest) -> Done | Failed:
        if self._stopped is not None:
            raise Stopped(self._stopped)
        schemas = request.schemas_of(asked.fields) if asked.path == request.CHAT else []
        if schemas:
            verdict = await self._target.grammars.check(self._ticket.tenant, schemas)
            if verdict is not Verdict.OK:
                return self._failed(failures.SCHEMAS[verdict])
            if self._stopped is not None:
                raise Stopped(self._stopped)
        take = self._take_events if asked.stream else None
        exchange = await self._target.client.start("POST", asked.path, asked.body, take)
        self._exchange = exchange
        if self._stopped is not None:
            exchange.abort(Stopped(self._stopped))
        await exchange.finished
        if exchange.status != 200:
            return self._failed(failures.of_answer(exchange.status, bytes(exchange.body), asked))
        return self._done(self._counter.usage if asked.stream else self._take_body(asked, exchange))

    def _take_events(self, data: bytes) -> None:
        for event in self._events.feed(data):
            if event == b"[DONE]":
                continue
            frame = chunks.frame_of(event, self._counter)
            if frame is not None:
                self._add(frame, frame.chunk)

    def _take_body(self, asked: request.EngineRequest, exchange: Exchange) -> Usage:
        body, usage = chunks.answer_of(asked.path, bytes(exchange.body))
        self._add(Body(body), body)
        return usage

    def _add(self, frame: Role | Data | Body, content: bytes) -> None:
        self._commitment.update(content)
        self._pending.append(frame)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _after_stop(self, reason: Stop, asked: request.EngineRequest | None) -> Done | Failed | None:
        if reason is Stop.CANCELLED:
            usage = self._counter.usage
            if usage.prompt_tokens == 0 and asked is not None and self._exchange is not None:
                usage = Usage(await self._count(asked), 0, exact=False)
            return self._done(usage, cancelled=True)
        return self._failed(failures.LEAVING) if reason is Stop.LEAVING else None

    async def _count(self, asked: request.EngineRequest) -> int:
        """Tokens of the prompt of an answer that was cut off before the engine said so; 0 when it cannot be counted."""
        body = request.to_count(asked)
        if body is None:
            return 0
        try:
            status, answer = await self._target.client.ask("POST", request.TOKENIZE, body, timeout=COUNT_TIMEOUT)
            return chunks.answer_of(request.TOKENIZE, answer)[1].prompt_tokens if status == 200 else 0
        except (EngineLost, TimeoutError, ValueError):
            return 0

    # Writing

    def _append(self, batch: list[Frame]) -> Callable[[], Command]:
        """The write of all that is pending when its turn comes; then it is in `batch`."""

        def build() -> Command:
            batch.extend(self._pending)
            self._pending.clear()
            sealed = self._cipher.seal(self._sequence, frames.pack(batch))
            self.ending = frames.is_terminal(batch[-1])
            last = "1" if self.ending else "0"
            return APPEND.command(
                [self.key, keys.frames(self.id, self.attempt), keys.replies(self._reply_to)],
                [
                    self.id,
                    self.attempt,
                    self._site.identity.worker,
                    self._sequence,
                    sealed,
                    last,
                    keys.FRAMES_TTL,
                    LEASE_MS,
                ],
            )

        return build

    async def _write(self) -> None:
        """Write until nothing is pending, or the fence says stop; then what was not written is pending again."""
        try:
            while self._pending:
                batch: list[Frame] = []
                answer = await self._site.store.call(self._append(batch), patience=LEASE)
                if answer != scripts.OK:
                    self._pending[:0] = batch
                    self.stop(Stop.CANCELLED if answer == scripts.CANCELLED else Stop.STALE)
                    return
                self._sequence += 1
        except (StoreAway, RedisError) as error:
            log.warning("job %s: frames could not be written: %s", self.id, type(error).__name__)
            self.stop(Stop.LEASE_LOST)
        finally:
            self._writing = None

    async def _write_last(self, last: Done | Failed) -> None:
        """Write what is pending and the last frame, in one write where nothing is under way."""
        self._pending.append(last)
        while self._pending and self._stopped not in GONE:
            if self._writing is None:
                if self._stopped is Stop.CANCELLED:
                    self._pending[-1] = self._done(last.usage, cancelled=True)
                self._writing = asyncio.create_task(self._write())
            await asyncio.shield(self._writing)
        if not self._pending and isinstance(last, Done) and self._stopped not in (Stop.CANCELLED, *GONE):
            self._site.count_answer()

    # Last frames

    def _done(self, usage: Usage, *, cancelled: bool = False) -> Done:
        return Done(usage, self._receipt(usage, "cancelled" if cancelled else "succeeded"), cancelled)

    def _failed(self, failure: Failure) -> Failed:
        usage = self._counter.usage
        if failure.status < 500 and usage.prompt_tokens == 0:
            usage = Usage(0, 0)  # refused before anything was computed
        return Failed(
            failure.status, failure.code, failure.message, usage,
            receipt=self._receipt(usage, "failed"), param=failure.param, retry=failure.retry,
        )  # fmt: skip

    def _receipt(self, usage: Usage, outcome: str) -> str:
        ticket = self._ticket
        receipt = Receipt(
            job=ticket.job,
            attempt=ticket.attempt,
            tenant=ticket.tenant,
            ticket_sha256=self._ticket_sha256,
            policy=ticket.policy,
            site=self._site.identity.site,
            worker=self._site.identity.worker,
            engine=self._target.engine,
            model_digest=self._target.model_digest,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            output_commitment=self._commitment.hexdigest(),
            outcome=outcome,
            started=self._started,
            finished=_now(),
        )
        return signed(self._site.identity.signer, Purpose.RECEIPT, receipt)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _without_values(error: BaseException) -> BaseException:
    """The error for a traceback without its text, which may quote a prompt."""
    return type(error).__new__(type(error)).with_traceback(error.__traceback__)
