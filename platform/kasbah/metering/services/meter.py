"""Admitting requests: burst limits a minute, quotas a period; reserved before, settled after.

A reservation takes what a request may use at most; settling gives back what it did not use. So a quota is never
overspent as long as `prompt_estimate` is an upper bound. Where no limit of requests or tokens a minute is set, the
key has DEFAULT_REQUESTS and DEFAULT_TOKENS: far beyond one installation, and true when the headers tell them.

Calls that arrive together go to the store in one pipeline. While the store is away requests are refused (503).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from inference_worker.contract.messages import Usage
from kasbah.common.database import Database
from kasbah.common.errors import Invalid, QuotaExceeded, RateLimited, Unavailable
from kasbah.common.groupcommit import GroupCommit
from kasbah.common.ids import uuid7
from kasbah.identity.services import Principal
from kasbah.metering.models import LimitScope
from kasbah.metering.services import periods, scripts
from kasbah.metering.services.limits import LimitRecord, Limits
from kasbah.metering.services.usage import used_since

DEFAULT_REQUESTS = 1_000_000  # a minute and key
DEFAULT_TOKENS = 1_000_000_000
LIFE = 3600  # seconds after which a reservation that nobody settled is given up
SCOPES = {"tenant": "your tenant", "project": "this project", "api_key": "this API key"}
AWAY = "The store of limits is away; nothing was done. Try again."

Arguments = tuple[str | int, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for all requests of a key on one day."""

    records: tuple[LimitRecord, ...]
    keys: tuple[str, ...]
    limits: str  # of each: requests, tokens a minute, tokens a period; see scripts.LIMITS
    ttl: int  # seconds that counters of quotas are kept


@dataclass(slots=True)
class Reservation:
    """What was taken for one request; settle or release it once. `headers` are the six x-ratelimit values."""

    id: UUID
    tokens: int
    headers: Mapping[str, str]
    plan: _Plan
    closed: bool = False


@dataclass(slots=True)
class _Call:
    script: str
    keys: tuple[str, ...]
    arguments: Arguments
    answer: Any = field(default=None)


class Meter:
    """Counts in `redis`; reads usage rows from `database` where a quota's counter is not there."""

    def __init__(self, redis: Redis, database: Database) -> None:
        self._redis = redis
        self._database = database
        self._calls: GroupCommit[_Call] = GroupCommit(self._flush, max_batch=128)
        self._building: dict[str, asyncio.Task[None]] = {}

    async def reserve(
        self,
        principal: Principal,
        limits: Limits,
        prompt_estimate: int,
        max_tokens: int,
        now: float | None = None,
    ) -> Reservation:
        """Take one request and `prompt_estimate + max_tokens` tokens. `now`: seconds since the epoch.

        Without `now` buckets go by the store's clock, which all processes share. Raises RateLimited, QuotaExceeded,
        Invalid (more than the limit ever admits), Unavailable.
        """
        moment = time.time() if now is None else now
        plan = _plan(principal.key_id, limits, int(moment // 86_400))
        reservation = Reservation(uuid7(), prompt_estimate + max_tokens, {}, plan)
        milliseconds = 0 if now is None else int(now * 1000)
        words = f"{milliseconds} {reservation.tokens} {reservation.id.hex} {LIFE * 1000} {plan.ttl}"
        for pause in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4):
            call = _Call(scripts.RESERVE, plan.keys, (words, plan.limits))
            await self._reserve(call, reservation)
            code, *facts = map(int, call.answer.split())
            if code == scripts.ADMITTED:
                reservation.headers = _headers(*facts)
                return reservation
            record = plan.records[facts[0]]
            if code != scripts.BUILD:
                raise _refusal(code, record, facts[1], reservation.tokens, moment)
            await self._build(record, principal.tenant_id, moment, plan.ttl)
            await asyncio.sleep(pause)  # another process began to build it too
        raise Unavailable(AWAY, retry_after=1)

    async def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Give back what was not used; to be called once the usage row is committed, which counters are built from.

        Once the reservation is closed this does nothing. Raises Unavailable: the usage row is there, and the
        reservation is given up by itself.
        """
        used = usage.prompt_tokens + usage.completion_tokens
        if used > reservation.tokens:
            logger.warning("A request used %d tokens and had reserved %d", used, reservation.tokens)
        await self._close(reservation, used, requests=0)

    async def release(self, reservation: Reservation) -> None:
        """Give everything back: nothing ran. Once the reservation is closed this does nothing. Raises Unavailable."""
        await self._close(reservation, 0, requests=1)

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._calls.close()
        await asyncio.sleep(0)  # what a caller who left had reserved is given back now
        await self._calls.close()

    async def _reserve(self, call: _Call, reservation: Reservation) -> None:
        written = self._calls.add(call)
        try:
            await asyncio.shield(written)
        except asyncio.CancelledError:
            written.add_done_callback(lambda _: self._give_back(call, reservation))
            raise

    def _give_back(self, call: _Call, reservation: Reservation) -> None:
        """Its caller left while it was under way."""
        if isinstance(call.answer, (bytes, str)) and int(call.answer.split()[0]) == scripts.ADMITTED:
            reservation.closed = True
            self._calls.add(_closing(reservation, 0, requests=1)).add_done_callback(_log)

    async def _close(self, reservation: Reservation, used: int, requests: int) -> None:
        if reservation.closed:
            return
        reservation.closed = True
        # It runs to its end though the caller may be cancelled: the client went away, the tokens must not.
        await asyncio.shield(self._calls.add(_closing(reservation, used, requests)))

    async def _build(self, record: LimitRecord, tenant_id: UUID, moment: float, ttl: int) -> None:
        quota = _quota(record, moment)
        task = self._building.get(quota)
        if task is None:
            task = self._building[quota] = asyncio.create_task(self._rebuild(quota, record, tenant_id, moment, ttl))
            task.add_done_callback(lambda _: self._building.pop(quota, None))
        await asyncio.shield(task)

    async def _rebuild(self, quota: str, record: LimitRecord, tenant_id: UUID, moment: float, ttl: int) -> None:
        begin = _Call(scripts.BEGIN, (quota,), (ttl,))
        await self._calls.submit(begin)
        start = periods.start(record.period, moment)
        async with self._database.transaction(tenant_id) as connection:
            used = await used_since(connection, tenant_id, record.scope, record.subject_id, start)
        await self._calls.submit(_Call(scripts.FINISH, (quota,), (begin.answer, used)))

    async def _flush(self, calls: list[_Call]) -> None:
        try:
            await self._send(calls)
            if missing := [call for call in calls if isinstance(call.answer, NoScriptError)]:
                for script in {call.script for call in missing}:
                    await self._redis.script_load(script)
                await self._send(missing)
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(AWAY, retry_after=1) from error
        for call in calls:
            if isinstance(call.answer, Exception):
                raise Unavailable(AWAY, retry_after=1) from call.answer

    async def _send(self, calls: list[_Call]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(_SHA[call.script], len(call.keys), *call.keys, *call.arguments)
        for call, answer in zip(calls, await pipeline.execute(raise_on_error=False), strict=True):
            call.answer = answer


_SHA = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()  # the store names scripts so
    for script in (scripts.RESERVE, scripts.SETTLE, scripts.BEGIN, scripts.FINISH)
}


def _closing(reservation: Reservation, used: int, requests: int) -> _Call:
    plan = reservation.plan
    words = f"{reservation.tokens} {reservation.id.hex} {used} {requests} {plan.ttl}"
    return _Call(scripts.SETTLE, plan.keys, (words, plan.limits))


def _log(written: asyncio.Future[None]) -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        logger.info("What a caller who left had reserved is given up by itself: %s", error)


@lru_cache(maxsize=10_000)
def _plan(key_id: UUID, limits: Limits, day: int) -> _Plan:
    records, moment = _with_defaults(key_id, limits), float(day * 86_400)
    keys: list[str] = []
    for record in records:
        keys.append(f"ksb:bucket:{record.id.hex}")
        if record.tokens_per_period is not None:
            quota = _quota(record, moment)
            keys += (quota, f"{quota}:open")
    limits_text = " ".join(str(-1 if n is None else n) for record in records for n in _numbers(record))
    return _Plan(records, tuple(keys), limits_text, periods.seconds_left(moment) + 2 * LIFE)


def _with_defaults(key_id: UUID, limits: Limits) -> tuple[LimitRecord, ...]:
    records = limits.records
    requests = None if any(r.requests_per_minute is not None for r in records) else DEFAULT_REQUESTS
    tokens = None if any(r.tokens_per_minute is not None for r in records) else DEFAULT_TOKENS
    if requests is None and tokens is None:
        return records
    return (*records, LimitRecord(key_id, LimitScope.API_KEY.value, key_id, requests, tokens))


def _quota(record: LimitRecord, moment: float) -> str:
    return f"ksb:quota:{record.id.hex}:{periods.label(record.period, moment)}"


def _numbers(record: LimitRecord) -> tuple[int | None, int | None, int | None]:
    return record.requests_per_minute, record.tokens_per_minute, record.tokens_per_period


def _headers(*facts: int) -> dict[str, str]:
    headers = {}
    for name, (limit, left, milliseconds) in (("requests", facts[:3]), ("tokens", facts[3:])):
        headers[f"x-ratelimit-limit-{name}"] = str(limit)
        headers[f"x-ratelimit-remaining-{name}"] = str(left)
        headers[f"x-ratelimit-reset-{name}"] = periods.duration(milliseconds)
    return headers


def _refusal(
    code: int, record: LimitRecord, fact: int, tokens: int, moment: float
) -> RateLimited | QuotaExceeded | Invalid:
    whose = SCOPES[record.scope]
    if code == scripts.QUOTA:
        return QuotaExceeded(
            f"The quota of {whose} is {record.tokens_per_period} tokens a {record.period}; {fact} are left and this "
            f"request may use {tokens}. It begins anew on {periods.end(record.period, moment):%Y-%m-%d} at 00:00 UTC.",
        )
    if code == scripts.TOO_MUCH:
        if record.requests_per_minute == 0:
            return QuotaExceeded(f"The limit of {whose} is 0 requests a minute; ask your administrator.")
        return Invalid(
            f"This request may use {tokens} tokens, and the limit of {whose} is {fact} a minute. "
            "Lower max_tokens or send less text.",
            param="max_tokens",
            code="request_exceeds_limit",
        )
    name = "requests" if code == scripts.BURST_REQUESTS else "tokens"
    limit = record.requests_per_minute if name == "requests" else record.tokens_per_minute
    return RateLimited(
        f"The limit of {whose} is {limit} {name} a minute. Try again in {periods.duration(fact)}.",
        retry_after=fact / 1000,
        headers={
            f"x-ratelimit-limit-{name}": str(limit),
            f"x-ratelimit-remaining-{name}": "0",
            f"x-ratelimit-reset-{name}": periods.duration(fact),
        },
    )
