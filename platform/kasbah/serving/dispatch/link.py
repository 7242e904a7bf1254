"""Everything a web process holds of one site: store, carrier, reader, and the offers that wait to go out together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from kasbah.common.groupcommit import GroupCommit
from kasbah.residency.services import SiteRecord
from kasbah.serving.dispatch.carriers import Carrier, carrier
from kasbah.serving.dispatch.publisher import Offer
from kasbah.serving.dispatch.replies import Entry, ReplyReader
from kasbah.serving.dispatch.store import Store
from kasbah.serving.dispatch.tasks import end
from kasbah.serving.timings import Timings


class Link:
    """One site's connections; `away_since` is None while its store answers."""

    def __init__(
        self,
        record: SiteRecord,
        owner: str,
        timings: Timings,
        deliver: Callable[[Entry], None],
        resumed: Callable[[UUID], None],
    ) -> None:
        self.record = record
        self.id: UUID = record.id
        self.store = Store(record.store_url, timings.store_timeout)
        self.carrier: Carrier = carrier(self.store, record.broker_url, record.store_url, timings.store_timeout)
        self.reader = ReplyReader(record.store_url, owner, deliver, lambda: resumed(record.id), record.slug)
        self.offers: GroupCommit[Offer] = GroupCommit(self.carrier.send)
        self.away_since: float | None = None
        self.back_at = time.monotonic()
        self.problem, self.asked_at = "", float("-inf")  # with the store though it answers, and when it was asked
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, watch: Callable[[Link], Any]) -> None:
        """Begin to read replies and to watch."""
        self._tasks = [
            asyncio.create_task(self.reader.run(), name=f"replies {self.record.slug}"),
            asyncio.create_task(watch(self), name=f"watch {self.record.slug}"),
        ]

    def answered(self) -> None:
        """The store answered."""
        if self.away_since is not None:
            self.away_since, self.back_at = None, time.monotonic()

    def silent(self) -> None:
        """The store did not answer."""
        if self.away_since is None:
            self.away_since = time.monotonic()

    async def close(self) -> None:
        """End tasks and connections."""
        await end(self._tasks)
        await self.reader.close()
        await self.carrier.close()
        await self.store.close()
