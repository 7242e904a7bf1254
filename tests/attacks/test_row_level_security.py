"""A fuzzer looks for rows of other tenants, through the real pools of Django and of the asynchronous side.

20 tenants, pools of four connections that all share, requests that read every tenant table without a WHERE, write
into other tenants, nest scopes, forget their scope, fail in SQL and in Python, are cancelled, time out and lose their
connection. Whatever happened on a connection before, a request sees its own tenant's rows and no other.

The negative controls take one guard away and must find the leak.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import DatabaseError, DataError, OperationalError, connection, connections
from psycopg import errors

from kasbah.common import rls
from kasbah.common.checks import tenant_tables
from kasbah.common.database import Database
from kasbah.common.errors import Unavailable
from kasbah.common.ids import uuid7
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)
TENANTS = 20
TABLES = sorted(tenant_tables().items())


class Planned(Exception):
    """A request failed because it was told to."""


@dataclass
class Found:
    """What the fuzzer saw. `foreign`: rows of another tenant, or any row without a scope, or a foreign write."""

    foreign: int = 0
    own: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def see(self, rows: list[tuple[Any, ...]], tenant: UUID | None) -> None:
        own = sum(1 for (seen,) in rows if seen is not None and seen == str(tenant))
        self.own += own
        self.foreign += len(rows) - own


def populate(superuser: psycopg.Connection) -> list[UUID]:
    """20 tenants, each with rows in every tenant table; 40 rows of no tenant in the audit intake."""
    tenants: list[UUID] = []
    for _ in range(TENANTS):
        home = factories.household()
        tenants.append(home.tenant.id)
        names = {"tenant": home.tenant.id, "project": home.project.id, "key": home.key.id}
        for statement in ROWS.split(";"):
            superuser.execute(statement, {**names, "id": uuid7(), "none": uuid7(), "deployment": DEPLOYMENT})  # type: ignore[arg-type]
    for table, column in TABLES:
        row = superuser.execute(f'SELECT count(DISTINCT {column}) FROM "{table}"').fetchone()  # type: ignore[arg-type]  # noqa: S608 - our own tables
        assert row == (TENANTS,), f"{table} has no row of each tenant: add one to ROWS"
    return tenants


DEPLOYMENT = uuid7()
ROWS = """
INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%(id)s, %(tenant)s, 'x', '', '');
INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%(none)s, NULL, 'x', '', '');
INSERT INTO audit_log (id, tenant_id, origin, size, frontier, tiled, anchored, key)
    VALUES (%(project)s, %(tenant)s, %(tenant)s::text, 0, '', 0, 0, '');
INSERT INTO audit_forwarder (id, tenant_id, name, kind, address, ca_certificate, client_certificate, client_key_sealed,
    header_name, header_value_sealed, enabled, sent, pruned, failures, last_error)
    VALUES (%(key)s, %(tenant)s, %(key)s::text, 'k', 'a', 'c', '', '', '', '', true, 0, 0, 0, '');
INSERT INTO audit_forwarderposition (id, tenant_id, taken, forwarder_id, log_id)
    VALUES (%(id)s, %(tenant)s, 0, %(key)s, %(project)s);
INSERT INTO audit_leaf (event_id, tenant_id, index, hash, log_id) VALUES (%(id)s, %(tenant)s, 0, '', %(project)s);
INSERT INTO audit_checkpoint (id, tenant_id, size, root, note, log_id)
    VALUES (%(key)s, %(tenant)s, 0, '', '', %(project)s);
INSERT INTO audit_cosignature (id, tenant_id, checkpoint_id, witness, line)
    VALUES (%(id)s, %(tenant)s, %(key)s, 'w', '');
INSERT INTO audit_pruned (id, tenant_id, log_id, start, "end", event_id)
    VALUES (%(id)s, %(tenant)s, %(project)s, 0, 1, %(id)s);
INSERT INTO audit_keysuccession (id, tenant_id, size, old, new, note, log_id)
    VALUES (%(id)s, %(tenant)s, 0, '', '', '', %(project)s);
INSERT INTO audit_contentkey (id, tenant_id, month, wrapped) VALUES (%(key)s, %(tenant)s, '2026-01-01', '');
INSERT INTO audit_content (id, tenant_id, project_id, key_id, request_id, event_id, part, form, data_class, level,
    policy, ceiling_days, opening, erased_reason)
    VALUES (%(id)s, %(tenant)s, %(project)s, %(key)s, %(id)s::text, %(id)s,
    'prompt', 'body', 'public', 'commitment', '', 0, '', '');
INSERT INTO identity_accountchange (id, user_id, tenant_id, kind, actor_kind, actor_id, confirmed_by)
    VALUES (%(id)s, %(id)s, %(tenant)s, 'role', 'user', 'u', '');
INSERT INTO identity_invitation (id, tenant_id, email, role, state, actor_kind, actor_id, created_at, expires_at)
    VALUES (%(id)s, %(tenant)s, 'a@example.org', 'developer', 'open', 'user', 'u', now(), now());
INSERT INTO audit_legalhold (id, tenant_id, data_class, request_id, reason, reference, release_reason)
    VALUES (%(id)s, %(tenant)s, '', '', 'r', 'r', '');
INSERT INTO audit_erasure (id, tenant_id, state, words, requested_by, expires_at, rejection, kind, basis, request_id,
    digest, records)
    VALUES (%(id)s, %(tenant)s, 'requested', 'w', %(id)s, now(), '', 'request', 'authority', 'r', '', 0);
INSERT INTO audit_pruningpolicy (id, tenant_id, state, words, requested_by, expires_at, rejection, keep_days)
    VALUES (%(id)s, %(tenant)s, 'requested', 'w', %(id)s, now(), '', 200);
INSERT INTO metering_usage VALUES (%(id)s, 'm', '/v1', 1, 1, true, now(), %(key)s, %(project)s, %(tenant)s);
INSERT INTO metering_limit (id, scope, subject_id, period, tenant_id)
    VALUES (%(id)s, 'tenant', %(tenant)s, 'day', %(tenant)s);
INSERT INTO residency_policy (id, version, document, source, digest, state, created_at, findings, needs_approval,
    compared_version, compared_digest, reason, bootstrap, tenant_id)
    VALUES (%(id)s, 1, '{}', '', '', 'draft', now(), '[]', false, 0, '', '', false, %(tenant)s);
INSERT INTO registry_model (id, name, publisher, licence, family, created_at)
    VALUES (%(deployment)s, 'm', 'p', 'l', 'f', now()) ON CONFLICT DO NOTHING;
INSERT INTO registry_modelversion (id, digest, manifest, size, stage, topology, created_at, model_id)
    VALUES (%(deployment)s, 'd', '[]', 1, 'approved', '{}', now(), %(deployment)s) ON CONFLICT DO NOTHING;
INSERT INTO serving_deployment (id, name, engine_settings, enabled, created_at, model_version_id)
    VALUES (%(deployment)s, 'm', '{}', true, now(), %(deployment)s) ON CONFLICT DO NOTHING;
INSERT INTO serving_deploymentgrant (id, deployment_id, tenant_id) VALUES (%(id)s, %(deployment)s, %(tenant)s);
INSERT INTO serving_job (id, request_id, endpoint, stream, data_class, policy, sites, state, attempt, owner,
    lease_until, prompt_tokens, completion_tokens, error_code, receipt, ticket, created_at, api_key_id, deployment_id,
    project_id, tenant_id) VALUES (%(id)s, %(id)s::text, '/v1', true, 'public', '', '[]', 'queued', 1, '', now(),
    0, 0, '', '', '', now(), %(key)s, %(deployment)s, %(project)s, %(tenant)s);
INSERT INTO serving_idempotencykey (id, key_digest, body_digest, job_id, expires_at, api_key_id, tenant_id)
    VALUES (%(id)s, 'k', 'b', %(id)s, now(), %(key)s, %(tenant)s)
"""


def question(chance: random.Random) -> str:
    table, column = chance.choice(TABLES)
    return f'SELECT {column}::text FROM "{table}"'  # noqa: S608 - our own tables


KINDS = ("read", "read", "read", "write", "sql error", "python error", "time out", "nest", "forget", "lose connection")
WEIGHTS = (8, 8, 8, 6, 6, 6, 3, 8, 6, 1)


class Async:
    """Requests through kasbah.common.database."""

    def __init__(self, database: Database, tenants: list[UUID], found: Found, seed: int) -> None:
        self.database, self.tenants, self.found = database, tenants, found
        self.chance = random.Random(seed)

    async def run(self, count: int) -> None:
        """`count` requests, sixteen at once; one in six is cancelled at some moment."""
        todo = iter(range(count))

        async def client() -> None:
            for _ in todo:
                task = asyncio.create_task(self.request())
                if self.chance.random() < 1 / 6:
                    await asyncio.sleep(self.chance.random() * 0.01)
                    task.cancel()
                (ended,) = await asyncio.gather(task, return_exceptions=True)
                self.found.ends[type(ended).__name__] += 1

        await asyncio.gather(*(client() for _ in range(16)))

    async def request(self) -> None:
        chance, (kind,) = self.chance, self.chance.choices(KINDS, WEIGHTS)
        self.found.kinds[f"async {kind}"] += 1
        tenant = chance.choice(self.tenants)
        if kind == "forget":
            async with self.database._pool.connection() as session:
                self.found.see(await (await session.execute(question(chance))).fetchall(), None)
            return
        async with self.database.transaction(tenant) as session:
            for _ in range(chance.randint(1, 3)):
                self.found.see(await (await session.execute(question(chance))).fetchall(), tenant)
            if kind == "write":
                other = chance.choice([one for one in self.tenants if one != tenant])
                done = await session.execute("UPDATE identity_tenant SET name = 'x' WHERE id = %s", [other])
                self.found.foreign += done.rowcount
                await session.execute(
                    "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, 'x', '', '')",
                    [uuid7(), other],
                )
                self.found.foreign += 1  # it should have been refused
            elif kind == "sql error":
                await session.execute("SELECT 1 / 0")
            elif kind == "python error":
                raise Planned
            elif kind == "time out":
                await session.execute("SET LOCAL statement_timeout = '2ms'")
                await session.execute("SELECT pg_sleep(1)")
            elif kind == "lose connection":
                await session.execute("SELECT pg_terminate_backend(pg_backend_pid())")


class Sync:
    """Requests through Django."""

    def __init__(self, tenants: list[UUID], found: Found, seed: int) -> None:
        self.tenants, self.found, self.chance = tenants, found, random.Random(seed)

    def run(self, count: int) -> None:
        """`count` requests in six threads."""
        with ThreadPoolExecutor(6) as threads:
            for kind in threads.map(lambda _: self.guarded(), range(count)):
                self.found.ends[kind] += 1

    def guarded(self) -> str:
        try:
            self.request()
        except (Planned, DatabaseError) as error:
            return type(error).__name__
        finally:
            connection.close()  # as Django does at the end of a request: back into the pool
        return "NoneType"

    def look(self, tenant: UUID | None) -> None:
        with connection.cursor() as cursor:
            cursor.execute(question(self.chance))
            self.found.see(cursor.fetchall(), tenant)

    def request(self) -> None:
        chance, (kind,) = self.chance, self.chance.choices(KINDS, WEIGHTS)
        self.found.kinds[f"sync {kind}"] += 1
        tenant = chance.choice(self.tenants)
        if kind == "forget":
            self.look(None)
            return
        with rls.tenant_scope(tenant):
            self.look(tenant)
            self.act(kind, tenant)
            self.look(tenant)
        self.look(None)  # after the scope nothing is left of it

    def act(self, kind: str, tenant: UUID) -> None:
        with connection.cursor() as cursor:
            if kind == "write":
                other = self.chance.choice([one for one in self.tenants if one != tenant])
                cursor.execute("UPDATE identity_tenant SET name = 'x' WHERE id = %s", [other])
                self.found.foreign += cursor.rowcount
                cursor.execute(
                    "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, 'x', '', '')",
                    [uuid7(), other],
                )
                self.found.foreign += 1
            elif kind == "sql error":
                cursor.execute("SELECT 1 / 0")
            elif kind == "python error":
                raise Planned
            elif kind == "time out":
                cursor.execute("SET LOCAL statement_timeout = '2ms'")
                cursor.execute("SELECT pg_sleep(1)")
            elif kind == "lose connection":
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            elif kind == "nest":
                self.nest(tenant)

    def nest(self, tenant: UUID) -> None:
        """Another tenant's scope, or the platform's, inside; left in order or by an error."""
        other = self.chance.choice(self.tenants)
        scope = rls.platform_scope() if self.chance.random() < 0.3 else rls.tenant_scope(other)
        with suppress(DatabaseError), scope, connection.cursor() as cursor:
            cursor.execute("SELECT 1 / %s", [self.chance.randint(0, 1)])
        self.look(tenant)


async def fuzz(database: Database, tenants: list[UUID], count: int, seed: int) -> Found:
    """`count` requests, half of them through each side, at the same time."""
    found = Found()
    await asyncio.gather(
        Async(database, tenants, found, seed).run(count // 2),
        asyncio.to_thread(Sync(tenants, found, seed + 1).run, count - count // 2),
    )
    return found


async def test_3000_requests_of_20_tenants_see_no_foreign_row(
    database: Database, superuser: psycopg.Connection, record_property: Callable[[str, object], None]
) -> None:
    tenants = await asyncio.to_thread(populate, superuser)
    found = await fuzz(database, tenants, 3000, seed=11)
    record_property("found", repr(found))
    assert sum(found.kinds.values()) > 2950  # some are cancelled before they begin
    assert found.foreign == 0
    assert found.own > 3000
    # Each kind of request, and each kind of end, has happened often enough to mean something.
    assert min(found.kinds[f"{side} {kind}"] for side in ("async", "sync") for kind in set(KINDS)) >= 5
    ends = (asyncio.CancelledError, errors.DivisionByZero, errors.InsufficientPrivilege, Unavailable, Planned)
    assert all(found.ends[end.__name__] >= 5 for end in (*ends, DataError, OperationalError)), found.ends


@contextmanager
def session_level(monkeypatch: pytest.MonkeyPatch, superuser: psycopg.Connection) -> Iterator[None]:
    """The tenant set for the session instead of the transaction."""
    with monkeypatch.context() as patch:
        patch.setattr(rls, "SET_TENANT", rls.SET_TENANT.replace("true", "false"))
        yield


@contextmanager
def policy_off(monkeypatch: pytest.MonkeyPatch, superuser: psycopg.Connection) -> Iterator[None]:
    """One table of eleven without row-level security."""
    superuser.execute("ALTER TABLE metering_usage DISABLE ROW LEVEL SECURITY")
    try:
        yield
    finally:
        superuser.execute("ALTER TABLE metering_usage ENABLE ROW LEVEL SECURITY")


@contextmanager
def policy_too_kind(monkeypatch: pytest.MonkeyPatch, superuser: psycopg.Connection) -> Iterator[None]:
    """A policy that lets everybody read the rows of no tenant."""
    superuser.execute("CREATE POLICY too_kind ON audit_intake FOR SELECT USING (tenant_id IS NULL)")
    try:
        yield
    finally:
        superuser.execute("DROP POLICY too_kind ON audit_intake")


@pytest.mark.parametrize("broken", [session_level, policy_off, policy_too_kind])
async def test_the_fuzzer_finds_a_leak(
    broken: Callable[..., Any], database: Database, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = await asyncio.to_thread(populate, superuser)
    with broken(monkeypatch, superuser):
        found = await fuzz(database, tenants, 400, seed=12)
    assert found.foreign > 0
    # Connections that were used while it was broken must not be used again.
    connections["default"].close_pool()  # type: ignore[attr-defined]
