"""How an offer reaches a site's queue. KASBAH_CARRIER chooses: `redis` (default) or `celery`.

Both make the attempt current in the site's store first (OFFER), so that a worker can claim it; both messages are taken
by a stock Celery worker. `redis` writes message and attempt in one script and many offers in one pipeline. `celery`
publishes with Celery's own `apply_async`: always where the site's broker is not its store, such as RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from inference_worker.contract import keys
from kasbah.common import env
from kasbah.serving.dispatch import envelope
from kasbah.serving.dispatch.publisher import Offer, Publisher, is_amqp
from kasbah.serving.dispatch.sight import Sight
from kasbah.serving.dispatch.store import LOOK, MARK, MISS, OFFER, Call, Store, StoreAway, SyncStore, look_call

T = TypeVar("T")
Asked = tuple[str, str]  # job, deployment


class Carrier(Protocol):
    """Carries offers to one site, and looks where they are."""

    async def send(self, offers: Sequence[Offer]) -> None:
        """Make the attempts current and queue their messages; sending again is harmless. Raises StoreAway."""

    async def look(self, jobs: Sequence[Asked], grace_ms: int) -> list[Sight]:
        """What is known of each; a message younger than `grace_ms` is not looked for. Raises StoreAway."""

    async def answers(self) -> bool:
        """Whether a broker beside the store can be reached."""

    async def close(self) -> None:
        """Give connections up."""


class RedisCarrier:
    """Celery's envelope, pushed by the script that makes the attempt current."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def send(self, offers: Sequence[Offer]) -> None:
        """See Carrier."""
        await self._store.run(OFFER, [_with_message(offer) for offer in offers])

    async def look(self, jobs: Sequence[Asked], grace_ms: int) -> list[Sight]:
        """See Carrier."""
        return [Sight.of(answer) for answer in await self._store.run(LOOK, _calls(jobs, listed=True))]

    async def answers(self) -> bool:
        """There is none: its store is asked anyway."""
        return True

    async def close(self) -> None:
        """Nothing of its own."""


class CeleryCarrier:
    """Stock `apply_async`, in a thread of its own: kombu waits for the broker."""

    def __init__(self, store: Store, broker_url: str, timeout: float) -> None:
        self._store, self._timeout = store, timeout
        self._publisher = Publisher(broker_url, timeout)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")

    async def send(self, offers: Sequence[Offer]) -> None:
        """See Carrier. Where the second step fails the attempt is current without a message: it is given up as lost."""
        await self._store.run(OFFER, [_without_message(offer) for offer in offers])
        await self._apart(self._publisher.publish, offers)
        await self._store.run(MARK, [_mark(offer) for offer in offers])

    async def look(self, jobs: Sequence[Asked], grace_ms: int) -> list[Sight]:
        """See Carrier. A broker that is away does not hide what the store says."""
        sights = [Sight.of(answer) for answer in await self._store.run(LOOK, _calls(jobs, listed=False))]
        if not (old := _unclaimed(sights, grace_ms)):
            return sights
        try:
            waiting = await self._apart(self._publisher.waiting, _queues(jobs, old))
        except StoreAway:
            return sights
        return _seen(sights, old, await self._store.run(MISS, _misses(jobs, sights, old, waiting)))

    async def answers(self) -> bool:
        """See Carrier."""
        try:
            await self._apart(self._publisher.ping)
        except StoreAway:
            return False
        return True

    async def _apart(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            async with asyncio.timeout(self._timeout * 2):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except TimeoutError as error:
            raise StoreAway("the broker did not answer in time") from error

    async def close(self) -> None:
        """The connection goes once what it does is done."""
        self._thread.submit(self._publisher.close)
        self._thread.shutdown(wait=False)


def carrier(store: Store, broker_url: str, store_url: str, timeout: float) -> Carrier:
    """The carrier to one site. Raises SettingError."""
    if _listed(broker_url, store_url):
        return RedisCarrier(store)
    return CeleryCarrier(store, broker_url, timeout)


class SyncCarrier:
    """The same for housekeeping, which is synchronous; `close` it."""

    def __init__(self, store: SyncStore, broker_url: str, store_url: str, timeout: float) -> None:
        self._store = store
        self.publisher = None if _listed(broker_url, store_url) else Publisher(broker_url, timeout)

    def send(self, offers: Sequence[Offer]) -> None:
        """See Carrier."""
        if self.publisher is None:
            self._store.run(OFFER, [_with_message(offer) for offer in offers])
            return
        self._store.run(OFFER, [_without_message(offer) for offer in offers])
        self.publisher.publish(offers)
        self._store.run(MARK, [_mark(offer) for offer in offers])

    def look(self, jobs: Sequence[Asked], grace_ms: int) -> list[Sight]:
        """See Carrier."""
        sights = [Sight.of(answer) for answer in self._store.run(LOOK, _calls(jobs, listed=self.publisher is None))]
        if self.publisher is None or not (old := _unclaimed(sights, grace_ms)):
            return sights
        try:
            waiting = self.publisher.waiting(_queues(jobs, old))
        except StoreAway:
            return sights
        return _seen(sights, old, self._store.run(MISS, _misses(jobs, sights, old, waiting)))

    def close(self) -> None:
        """Give the connection up."""
        if self.publisher is not None:
            self.publisher.close()


def carrier_name() -> str:
    """KASBAH_CARRIER. Raises SettingInvalid."""
    return env.choice("CARRIER", "redis", ("redis", "celery"))


def _listed(broker_url: str, store_url: str) -> bool:
    """Whether the queues are lists in the store, and this installation writes them itself."""
    return carrier_name() == "redis" and broker_url == store_url and not is_amqp(broker_url)


def _unclaimed(sights: Sequence[Sight], grace_ms: int) -> list[int]:
    """Which of them nobody has claimed for so long that their queues are counted."""
    pairs = enumerate(sights)
    return [index for index, sight in pairs if sight.attempt and not sight.worker and sight.waited_ms > grace_ms]


def _queues(jobs: Sequence[Asked], old: Sequence[int]) -> list[str]:
    return sorted({jobs[index][1] for index in old})


def _misses(
    jobs: Sequence[Asked], sights: Sequence[Sight], old: Sequence[int], waiting: Mapping[str, int]
) -> list[Call]:
    """The queues were counted after the store was asked, so that what came meanwhile hides nothing that is there."""
    calls: list[Call] = []
    for index in old:
        (job, deployment), sight = jobs[index], sights[index]
        missed = sight.after < 0 or waiting[deployment] <= sight.after
        calls.append(((keys.job(job),), (sight.attempt, "1" if missed else "0")))
    return calls


def _seen(sights: Sequence[Sight], old: Sequence[int], missed: Sequence[Any]) -> list[Sight]:
    found = list(sights)
    for index, milliseconds in zip(old, missed, strict=True):
        found[index] = replace(found[index], missed_ms=int(milliseconds))
    return found


def _calls(jobs: Sequence[Asked], *, listed: bool) -> list[Call]:
    return [look_call(job, deployment, listed=listed) for job, deployment in jobs]


def _with_message(offer: Offer) -> Call:
    queue = keys.queue(offer.deployment)
    names = (keys.job(offer.message.job), queue, keys.offered(offer.deployment))
    return names, (offer.message.attempt, keys.JOB_TTL, envelope.envelope(offer.message, queue))


def _without_message(offer: Offer) -> Call:
    return (keys.job(offer.message.job),), (offer.message.attempt, keys.JOB_TTL)


def _mark(offer: Offer) -> Call:
    return (keys.job(offer.message.job), keys.offered(offer.deployment)), (offer.message.attempt,)
