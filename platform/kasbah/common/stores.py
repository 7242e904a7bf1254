"""The control plane's own store (KASBAH_REDIS_URL), and what is asked of every store: to take writes and keep them.

A connection that rested may have been closed by the store or by what lies between: a command that finds it so is sent
once more, on a new one. Nothing else is sent again.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

TIMEOUT = 2.0  # seconds
KEEPING = "noeviction"
PROBE = ("SET", "ksb:writable", "1", "EX", "60")
ASK = ("INFO", "memory")
CANNOT_ASK = "its maxmemory-policy cannot be read: allow this user INFO"


class ForgetfulStore(RuntimeError):
    """The store would remove what it was given to make room for more; the message says what to do."""


def async_retry() -> AsyncRetry:
    """Once more, at once, where the connection was gone."""
    return AsyncRetry(NoBackoff(), 1, supported_errors=(ConnectionError,))


def sync_retry() -> Retry:
    """The same."""
    return Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))


def client() -> Redis:
    """Of the control plane's store."""
    return Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=async_retry()
    )


def sync_client() -> SyncRedis:
    """The same for what is synchronous."""
    return SyncRedis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=sync_retry()
    )


async def problem(store: Redis) -> str:
    """What is wrong with a store, in a few words: it takes no writes, or forgets; "" when nothing is.

    Raises RedisError and OSError where it does not answer.
    """
    pipeline = store.pipeline(transaction=False)
    for command in (PROBE, ASK):
        pipeline.execute_command(*command)
    written, memory = await pipeline.execute(raise_on_error=False)
    return _refusal(written) or _policy(memory)


def refuse_forgetful() -> None:
    """Raise ForgetfulStore where the control plane's store may forget what it was given.

    To be called by each process before it serves. A store that is away is asked when it is back, by readiness.
    """
    store = sync_client()
    try:
        found = _policy(store.execute_command(*ASK))  # type: ignore[no-untyped-call]
    except NoPermissionError:
        found = CANNOT_ASK
    except (RedisError, OSError):
        return
    finally:
        store.close()
    if found:
        raise ForgetfulStore(
            f"The store of KASBAH_REDIS_URL cannot be used: {found}. Limits, quotas and queued work lie there. Set"
            f" maxmemory-policy {KEEPING}: a full store refuses, and never forgets in silence."
        )


def _refusal(answer: Any) -> str:
    if not isinstance(answer, Exception):
        return ""
    words = {
        OutOfMemoryError: "full",
        ReadOnlyError: "read-only",
        BusyLoadingError: "reading its data",
        NoPermissionError: "not for this user to write to",
    }
    for kind, word in words.items():
        if isinstance(answer, kind):
            return word
    if isinstance(answer, ResponseError):
        # MISCONF: it cannot save; NOREPLICAS: too few replicas; OOM of older servers
        return f"refusing writes ({str(answer).split(' ', 1)[0][:20]})"
    raise answer


def _policy(memory: Any) -> str:
    if isinstance(memory, NoPermissionError):
        return CANNOT_ASK
    if isinstance(memory, Exception):
        raise memory
    policy = memory.get("maxmemory_policy", KEEPING)
    return "" if policy == KEEPING else f"it forgets (maxmemory-policy {str(policy)[:20]})"
