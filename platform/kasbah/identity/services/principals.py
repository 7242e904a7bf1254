"""From a key's text to the principal it stands for: in the database, and kept near for the gateway."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection as django_connection
from psycopg import Error

from kasbah.common import rls
from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.common.errors import KasbahError, Unauthenticated
from kasbah.identity.services import keys

UNKNOWN = "The API key is not known. Check that it belongs to this installation."
FIND = """
SELECT k.id, k.name, k.tenant_id, t.slug, k.project_id,
       ARRAY(SELECT jsonb_array_elements_text(k.scopes)), k.role,
       coalesce(nullif(k.default_data_class, ''), nullif(p.default_data_class, ''), t.default_data_class),
       k.expires_at, k.revoked_at, t.active, CASE WHEN k.service_account THEN NULL ELSE k.created_by_id END
FROM identity_apikey k
JOIN identity_project p ON p.tenant_id = k.tenant_id AND p.id = k.project_id
JOIN identity_tenant t ON t.id = k.tenant_id
WHERE k.digest = %s
"""
TOUCH = """
UPDATE identity_apikey SET last_used_at = now()
WHERE id = ANY(%s) AND (last_used_at IS NULL OR last_used_at < now() - interval '30 seconds')
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Principal:
    """What a valid key stands for. `data_class` is the key's default, else its project's, its tenant's, or "".

    `maker` is the person whose key it is, beyond whose present role it cannot go; None: a service account's.
    """

    key_id: UUID
    name: str
    tenant_id: UUID
    tenant_slug: str
    project_id: UUID
    scopes: frozenset[str]
    role: str
    data_class: str
    expires_at: datetime | None
    maker: UUID | None = None


def from_row(row: tuple[Any, ...] | None) -> Principal:
    """The principal of a row of FIND. Raises Unauthenticated: unknown, revoked, expired, tenant switched off."""
    if row is None:
        raise Unauthenticated(UNKNOWN)
    expires_at, revoked_at, active, maker = row[8:12]
    if revoked_at is not None:
        raise Unauthenticated("The API key was revoked.")
    if not active:
        raise Unauthenticated("The tenant of this API key is switched off.")
    key_id, name, tenant_id, tenant_slug, project_id, scopes, role, data_class = row[:8]
    principal = Principal(
        key_id, name, tenant_id, tenant_slug, project_id, frozenset(scopes), role, data_class, expires_at, maker
    )
    refuse_expired(principal)
    return principal


def refuse_expired(principal: Principal) -> None:
    """Raises Unauthenticated once the key's time is over."""
    if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
        raise Unauthenticated("The API key has expired.")


async def find_principal(database: Database, text: str) -> Principal:
    """Ask the database. Raises Unauthenticated, Unavailable."""
    return await _find(database, keys.digest(keys.parse(text)))


async def _find(database: Database, digest: bytes) -> Principal:
    # Whoever floods the door with keys that do not exist waits for himself, and not before those who are known.
    async with database.transaction(None, caller="authentication") as connection:
        row = await (await connection.execute(FIND, [digest])).fetchone()
    return from_row(row)


def authenticate_key(text: str) -> Principal:
    """The synchronous side's `find_principal`; notes the use. Raises Unauthenticated."""
    digest = keys.digest(keys.parse(text))
    with rls.platform_scope(), django_connection.cursor() as cursor:
        cursor.execute(FIND, [digest])
        principal = from_row(cursor.fetchone())
        cursor.execute(TOUCH, [[principal.key_id]])
    return principal


@dataclass(frozen=True, slots=True)
class _Kept:
    found: Principal | Unauthenticated
    until: float  # monotonic


class PrincipalCache:
    """Principals by key, kept until the database announces a change, and at most a minute.

    While the listener is not healthy nothing kept is used: a revoked key is refused within a second, whatever fails.
    Only digests are kept, never the text of a key. Wrong keys are kept briefly, so that a client that tries one
    again and again costs nothing.
    """

    KEEP, KEEP_WRONG, MOST = 60.0, 2.0, 20_000
    TOUCH_EVERY = 30.0

    def __init__(self, database: Database, listener: ChangeListener) -> None:
        self._database = database
        self._listener = listener
        self._kept: dict[bytes, _Kept] = {}
        self._loading: dict[bytes, asyncio.Task[Principal]] = {}
        self._changes = 0
        self._used: set[UUID] = set()
        self._touched_at = time.monotonic()
        self._touching: asyncio.Task[None] | None = None
        listener.subscribe(self._changed)

    async def get(self, text: str) -> Principal:
        """The principal of a key. Raises Unauthenticated, Unavailable."""
        digest = keys.digest(keys.parse(text))
        kept = self._kept.get(digest) if self._listener.healthy else None
        if kept is None or kept.until < time.monotonic():
            principal = await self._load(digest)
        elif isinstance(kept.found, Unauthenticated):
            raise Unauthenticated(kept.found.message)
        else:
            principal = kept.found
            refuse_expired(principal)
        self._use(principal.key_id)
        return principal

    async def close(self) -> None:
        """Write the uses that are not written yet."""
        if self._touching is not None:
            await self._touching
        await self._touch()

    async def _load(self, digest: bytes) -> Principal:
        # Those who ask for the same key meanwhile share one question. It goes on when one of them leaves.
        task = self._loading.get(digest)
        if task is None:
            task = self._loading[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda done: self._loaded(digest, done))
        return await asyncio.shield(task)

    async def _ask(self, digest: bytes) -> Principal:
        changes = self._changes
        try:
            principal = await _find(self._database, digest)
        except Unauthenticated as error:
            self._keep(digest, error, self.KEEP_WRONG, changes)
            raise
        self._keep(digest, principal, self.KEEP, changes)
        return principal

    def _loaded(self, digest: bytes, task: asyncio.Task[Principal]) -> None:
        if self._loading.get(digest) is task:
            del self._loading[digest]
        if not task.cancelled():
            task.exception()  # every waiter may have left; it is no surprise then

    def _keep(self, digest: bytes, found: Principal | Unauthenticated, seconds: float, changes: int) -> None:
        if changes != self._changes:
            return  # something changed after the question: the answer may be old already
        while len(self._kept) >= self.MOST:
            self._kept.pop(next(iter(self._kept)))
        self._kept[digest] = _Kept(found, time.monotonic() + seconds)

    def _changed(self, topic: str, ident: str) -> None:
        if topic == "*":
            self._changes += 1
            self._kept.clear()
            self._loading.clear()
        elif topic in {"key", "project", "tenant"}:
            self._changes += 1
            self._loading.clear()
            attribute = "key_id" if topic == "key" else f"{topic}_id"
            for digest, kept in list(self._kept.items()):
                # A wrong key's row is not known, so any change may have made it right.
                if isinstance(kept.found, Unauthenticated) or str(getattr(kept.found, attribute)) == ident:
                    del self._kept[digest]

    def _use(self, key_id: UUID) -> None:
        self._used.add(key_id)
        if self._touching is None and time.monotonic() - self._touched_at > self.TOUCH_EVERY:
            self._touched_at = time.monotonic()
            self._touching = asyncio.create_task(self._touch())

    async def _touch(self) -> None:
        used, self._used = sorted(self._used), set()
        try:
            if used:
                async with self._database.transaction(None) as connection:
                    await connection.execute(TOUCH, [used])
        except (KasbahError, Error):
            logger.warning("The last use of %d keys could not be noted", len(used))
        finally:
            self._touching = None
