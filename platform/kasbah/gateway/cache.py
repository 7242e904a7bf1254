"""What a request must know of its tenant, kept near: deployments, policy, limits and sites.

Entries are keyed by tenant (limits by key), so one tenant's facts can never answer for another. A message of the
database drops them within a second; while no message can come, nothing kept is used and every request asks anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.identity.services import Principal
from kasbah.metering.services import Limits, load_limits
from kasbah.residency.services import CompiledPolicy, SiteRecord, load_policy, load_sites
from kasbah.serving.services import DeploymentRecord, load_deployments

Value = TypeVar("Value")
MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for one tenant: `deployments` by public model name, `sites` by id."""

    policy: CompiledPolicy | None
    deployments: Mapping[str, DeploymentRecord]
    sites: Mapping[UUID, SiteRecord]


class Kept(Generic[Value]):
    """Values by id, loaded once for all who ask at the same time. What was loaded before a drop is not kept."""

    def __init__(self, trusted: Callable[[], bool]) -> None:
        self._trusted = trusted
        self._values: dict[UUID, Value] = {}
        self._loading: dict[UUID, asyncio.Future[Value]] = {}

    async def get(self, ident: UUID, load: Callable[[], Awaitable[Value]]) -> Value:
        """The value of `ident`; raises what `load` raises, and then keeps nothing."""
        trusted = self._trusted()
        if trusted and (value := self._values.get(ident)) is not None:
            return value
        # A load that is under way began before now, and may have missed a change that nobody could announce.
        if trusted and (loading := self._loading.get(ident)) is not None:
            return await asyncio.shield(loading)
        future = asyncio.ensure_future(load())
        self._loading[ident] = future
        try:
            value = await asyncio.shield(future)
        finally:
            mine = self._loading.get(ident) is future
            if mine:
                del self._loading[ident]
        if mine and trusted:
            if len(self._values) >= MAX_ENTRIES:
                del self._values[next(iter(self._values))]
            self._values[ident] = value
        return value

    def drop(self, ident: UUID) -> None:
        """Forget one value, and do not keep what is being loaded."""
        self._values.pop(ident, None)
        self._loading.pop(ident, None)

    def drop_all(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._loading.clear()


class TenantCache:
    """Facts by tenant and limits by key."""

    def __init__(self, database: Database, listener: ChangeListener) -> None:
        self._database = database
        self._facts: Kept[Facts] = Kept(lambda: listener.healthy)
        self._limits: Kept[Limits] = Kept(lambda: listener.healthy)
        listener.subscribe(self._changed)

    async def facts(self, tenant_id: UUID) -> Facts:
        """What holds for this tenant now. Raises Unavailable."""
        return await self._facts.get(tenant_id, lambda: self._load_facts(tenant_id))

    async def limits(self, principal: Principal) -> Limits:
        """The limits of this key, its project and its tenant. Raises Unavailable."""
        return await self._limits.get(principal.key_id, lambda: self._load_limits(principal))

    async def _load_facts(self, tenant_id: UUID) -> Facts:
        async with self._database.transaction(tenant_id) as connection:
            policy = await load_policy(connection, tenant_id)
            deployments = await load_deployments(connection, tenant_id)
            sites = await load_sites(connection)
        return Facts(
            policy=policy,
            deployments={deployment.name: deployment for deployment in deployments},
            sites={site.id: site for site in sites},
        )

    async def _load_limits(self, principal: Principal) -> Limits:
        async with self._database.transaction(principal.tenant_id) as connection:
            return await load_limits(connection, principal)

    def _changed(self, topic: str, ident: str) -> None:
        """See kasbah.common.changes for topics: a policy's and a limit's ident is the tenant's id."""
        if topic == "policy" and ident != "*":
            self._facts.drop(UUID(ident))
        elif topic in {"policy", "baseline", "deployment", "site", "*"}:
            self._facts.drop_all()
        if topic in {"limit", "*"}:
            self._limits.drop_all()
