"""How an offer reaches a site's queue. KASBAH_CARRIER chooses: `redis` (default) or `celery`.

Both make the attempt current in the site's store first (OFFER), so that a worker can claim it; both messages are taken
by a stock Celery worker. `redis` writes message and attempt in one script and many offers in one pipeline. `celery`
publishes with Celery's own `apply_async`, for brokers that are not Redis: slower, same results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from kombu.exceptions import KombuError, OperationalError

from inference_worker.contract import keys
from inference_worker.contract.messages import JobMessage
from kasbah.common import env
from kasbah.serving.dispatch import envelope
from kasbah.serving.dispatch.store import OFFER, Call, Store, StoreAway, SyncStore


@dataclass(frozen=True, slots=True)
class Offer:
    """One attempt of one job for the queue of a deployment."""

    deployment: str
    message: JobMessage


class Carrier(Protocol):
    """Carries offers to one site."""

    counted: bool  # whether LOOK can count the queue

    async def send(self, offers: Sequence[Offer]) -> None:
        """Make the attempts current and queue their messages; sending again is harmless. Raises StoreAway."""

    async def close(self) -> None:
        """Give connections up."""


class RedisCarrier:
    """Celery's envelope, pushed by the script that makes the attempt current."""

    counted = True

    def __init__(self, store: Store) -> None:
        self._store = store

    async def send(self, offers: Sequence[Offer]) -> None:
        """See Carrier."""
        await self._store.run(OFFER, [_with_message(offer) for offer in offers])

    async def close(self) -> None:
        """Nothing of its own."""


class CeleryCarrier:
    """Stock `apply_async`, in a thread."""

    counted = False

    def __init__(self, store: Store, broker_url: str, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._broker_url = broker_url

    async def send(self, offers: Sequence[Offer]) -> None:
        """See Carrier. Where the second step fails the attempt is current without a message: it is given up as lost."""
        await self._store.run(OFFER, [_without_message(offer) for offer in offers])
        try:
            async with asyncio.timeout(self._timeout * 2):
                await asyncio.to_thread(_publish, self._broker_url, self._timeout, offers)
        except (OperationalError, KombuError, OSError, TimeoutError) as error:
            raise StoreAway(type(error).__name__) from error

    async def close(self) -> None:
        """Nothing is kept open."""


def carrier(store: Store, broker_url: str, timeout: float) -> Carrier:
    """The carrier of this installation."""
    return RedisCarrier(store) if _chosen() == "redis" else CeleryCarrier(store, broker_url, timeout)


def carry(store: SyncStore, broker_url: str, timeout: float, offers: Sequence[Offer]) -> None:
    """The same for housekeeping, which is synchronous. Raises StoreAway."""
    if _chosen() == "redis":
        store.run(OFFER, [_with_message(offer) for offer in offers])
        return
    store.run(OFFER, [_without_message(offer) for offer in offers])
    try:
        _publish(broker_url, timeout, offers)
    except (OperationalError, KombuError, OSError) as error:
        raise StoreAway(type(error).__name__) from error


def counted() -> bool:
    """Whether LOOK can count the queues of this installation."""
    return _chosen() == "redis"


def _chosen() -> str:
    name = env.value("CARRIER", "redis")
    if name not in {"redis", "celery"}:
        raise env.SettingMissing(f"KASBAH_CARRIER is {name!r}; it must be redis or celery")
    return name


def _with_message(offer: Offer) -> Call:
    queue = keys.queue(offer.deployment)
    names = (keys.job(offer.message.job), queue, keys.offered(offer.deployment))
    return names, (offer.message.attempt, envelope.envelope(offer.message, queue), keys.JOB_TTL, "1")


def _without_message(offer: Offer) -> Call:
    queue = keys.queue(offer.deployment)
    return (keys.job(offer.message.job), queue), (offer.message.attempt, "", keys.JOB_TTL, "0")


def _publish(broker_url: str, timeout: float, offers: Sequence[Offer]) -> None:
    sender = envelope.app()
    with sender.connection_for_write(broker_url, connect_timeout=timeout) as connection:
        for offer in offers:
            sender.send_task(
                keys.TASK,
                args=[msgspec.to_builtins(offer.message)],
                task_id=f"{offer.message.job}:{offer.message.attempt}",
                queue=keys.queue(offer.deployment),
                connection=connection,
                argsrepr="",
                kwargsrepr="",
                ignore_result=True,
            )
