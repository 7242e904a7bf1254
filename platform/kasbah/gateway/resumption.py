"""GET /v1/streams/<request id>: a stream whose connection was lost, from the event after `Last-Event-ID` on.

A client that is gone stops the engine within a second, so what can be had afterwards is what was generated until then.
Who wants the engine to go on says so when asking, with `kasbah-resume-within: <seconds>`.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID

from inference_worker.contract.frames import Data, Done, Failed, Frame, Role
from kasbah.audit.services.content import ERASED
from kasbah.common.errors import Conflict, Invalid, KasbahError, NotFound, Unavailable
from kasbah.common.shares import SharedPool
from kasbah.gateway import admission, refusals, sse
from kasbah.gateway.endpoints import ENDPOINTS
from kasbah.gateway.exchange import EVENT_STREAM, Exchange
from kasbah.gateway.runtime import Runtime
from kasbah.identity.services import Principal
from kasbah.residency.services import SiteRecord
from kasbah.serving.services import replay

MOST = 64  # streams taken up again in one process: each holds a connection to a site's store; tenants have shares
SETTLE_WAIT = 5.0  # seconds for the process that settles the job
EVENT_ID = re.compile(r"(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})")
FIND = f"""
SELECT job.id, job.attempt, job.site_id, job.endpoint, job.state, job.policy, {ERASED} FROM serving_job AS job
WHERE job.request_id = %s AND job.api_key_id = %s AND job.stream
"""  # noqa: S608 - a constant
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "refused"})


@dataclass(frozen=True, slots=True)
class _Job:
    id: UUID
    attempt: int
    site_id: UUID
    endpoint: str
    state: str
    policy: str
    erased: bool  # something of its content was


class Resumption:
    """Takes streams up again."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._open = SharedPool("streams taken up again", MOST)

    async def serve(self, exchange: Exchange, request_id: str) -> None:
        """Answer with the rest of a stream. Raises KasbahError while nothing was sent."""
        principal = await admission.authenticate(self._runtime, exchange)
        after = _position(exchange.header(b"last-event-id"))
        if exchange.parameters().get("include_usage", "true") not in {"true", "false"}:
            raise Invalid("include_usage is true or false.", param="include_usage")
        job = await self._find(principal, request_id)
        if after is not None and after[0] != job.attempt:
            raise Conflict("This stream was begun anew after that event; ask again without Last-Event-ID.")
        facts = await self._runtime.tenants.facts(principal.tenant_id)
        site = facts.sites.get(job.site_id)
        if site is None or self._runtime.drain.begun:
            raise Unavailable("The stream cannot be taken up here now. Try again.", retry_after=1)
        with self._open.hold(principal.tenant_id):
            await self._relay(exchange, principal, job, site, after[1] if after is not None else 0)

    async def _find(self, principal: Principal, request_id: str) -> _Job:
        """The job of a stream that this very key asked for. Raises NotFound."""
        async with self._runtime.database.transaction(principal.tenant_id) as connection:
            row = await (await connection.execute(FIND, [request_id, principal.key_id])).fetchone()
        if row is None:
            raise NotFound("There is no such stream, or it is not this key's.", code="stream_not_found")
        job = _Job(*row)
        if job.erased:
            raise _expired()
        return job

    async def _relay(self, exchange: Exchange, principal: Principal, job: _Job, site: SiteRecord, seen: int) -> None:
        answer_id = f"{ENDPOINTS[job.endpoint].prefix}-{exchange.path.rpartition('/')[2]}"
        usage = exchange.parameters().get("include_usage") == "true"
        events = sse.Events(answer_id, job.attempt, include_usage=usage, ids=True, after=seen)
        try:
            async with aclosing(replay(site, job.id, job.attempt)) as kept:
                async for frames in kept:
                    if frames:
                        await self._send(exchange, principal, events, frames, _headers(job, site))
                    else:
                        await self._still_runs(principal, exchange, job)
        except KasbahError as error:
            if not exchange.begun:
                raise
            await exchange.write(sse.error_event(error), more=False)

    async def _send(
        self,
        exchange: Exchange,
        principal: Principal,
        events: sse.Events,
        frames: list[Frame],
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        data = b"".join([events.chunk(frame) for frame in frames if isinstance(frame, (Data, Role))])
        last = frames[-1]
        ended = isinstance(last, (Done, Failed))
        if ended:
            await self._settled(principal, exchange)
        if not exchange.begun:
            await exchange.begin(200, headers)
        if isinstance(last, Failed):
            data += sse.error_event(refusals.Failure(last.status, last.code, last.message, last.param))
        elif isinstance(last, Done):
            data += _cancelled() if last.cancelled else events.end(last.usage)
        await exchange.write(data, more=not ended)

    async def _still_runs(self, principal: Principal, exchange: Exchange, job: _Job) -> None:
        if self._runtime.drain.begun:
            raise refusals.shutting_down()
        now = await self._find(principal, exchange.path.rpartition("/")[2])
        if now.state in TERMINAL:
            raise _expired()
        if now.attempt != job.attempt:
            raise Conflict("This stream is begun anew; ask again without Last-Event-ID.")

    async def _settled(self, principal: Principal, exchange: Exchange) -> None:
        """No last frame goes out before the outcome is committed."""
        deadline = asyncio.get_running_loop().time() + SETTLE_WAIT
        while (await self._find(principal, exchange.path.rpartition("/")[2])).state not in TERMINAL:
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable("The end of the answer is not recorded yet. Try again.", retry_after=2)
            await asyncio.sleep(0.05)


def _expired() -> NotFound:
    return NotFound("Nothing is kept of this stream any more.", code="stream_expired")


def _position(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = EVENT_ID.fullmatch(text)
    if match is None:
        raise Invalid("Last-Event-ID is the id of an event, such as 1-17.", param="last-event-id")
    return int(match[1]), int(match[2])


def _headers(job: _Job, site: SiteRecord) -> list[tuple[bytes, bytes]]:
    return [
        EVENT_STREAM,
        (b"x-accel-buffering", b"no"),
        (b"kasbah-site", site.slug.encode()),
        (b"kasbah-policy-version", job.policy.rpartition("@")[2].encode()),
    ]


def _cancelled() -> bytes:
    return sse.error_event(Unavailable("The engine stopped here because its client was gone.", code="cancelled"))
