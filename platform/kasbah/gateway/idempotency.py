"""`Idempotency-Key`: the same key with the same request is one job and one answer; with another body, class, tags or
purpose it is an error.

The claim of a key is committed with the job's row, so neither exists without the other. Who comes second waits for the
first one's answer and gets the same bytes. An attempt that failed leaves the key free for the next one. An answer is
kept, sealed, for a day, and only where the residency policy lets content of its class be kept; it goes when that
content is erased.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from kasbah.audit.services.content import ERASED
from kasbah.common import sealed
from kasbah.common.database import Connection, Database
from kasbah.common.errors import Conflict, Invalid, Mismatch
from kasbah.common.ids import uuid7
from kasbah.identity.services import Principal

HOURS = 24
LONGEST_KEY = 255
LARGEST_ANSWER = 8 * 1024 * 1024
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
TABLE = "serving_idempotencykey"

# A key is taken over when its time is up, or when its job ended without an answer and the body is the same. The job
# must be seen to have ended: a job that another transaction has just committed may be invisible to this statement.
CLAIM = """
INSERT INTO serving_idempotencykey AS held (id, tenant_id, api_key_id, key_digest, body_digest, job_id, expires_at)
SELECT id, tenant, api_key, key_digest, body_digest, job, now() + %s * interval '1 hour'
FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %b::bytea[], %b::bytea[], %s::uuid[])
    AS new (id, tenant, api_key, key_digest, body_digest, job)
ON CONFLICT (api_key_id, key_digest) DO UPDATE SET job_id = excluded.job_id, body_digest = excluded.body_digest,
    response_sealed = NULL, status = NULL, expires_at = excluded.expires_at
WHERE held.expires_at < now() OR (held.status IS NULL AND held.body_digest = excluded.body_digest AND EXISTS (
    SELECT FROM serving_job AS job WHERE job.id = held.job_id
    AND job.state NOT IN ('queued', 'running')))
RETURNING job_id
"""
# Content that was erased while the answer was made is not kept here either.
KEEP = f"""
UPDATE serving_idempotencykey AS held SET status = %s,
    response_sealed = CASE WHEN {ERASED} THEN NULL ELSE %s::bytea END
FROM serving_job AS job WHERE job.id = held.job_id AND held.job_id = %s
"""  # noqa: S608 - a constant
LOOK = """
SELECT held.body_digest, held.status, held.response_sealed, held.job_id, job.state
FROM serving_idempotencykey AS held LEFT JOIN serving_job AS job ON job.id = held.job_id
WHERE held.api_key_id = %s AND held.key_digest = %s AND held.expires_at > now()
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key and the digest of what it sent under it."""

    tenant_id: UUID
    api_key_id: UUID
    digest: bytes
    body_digest: bytes

    def claim(self, job_id: UUID) -> Claim:
        """To be written with the job."""
        return Claim(self, job_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """That `job_id` is the job of this key."""

    key: Key
    job_id: UUID


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A whole answer as it is kept: the headers that tell of it and its exact bytes."""

    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a job, to be kept under its key. None: the key is used up, but the content may not be kept."""

    job_id: UUID
    kept: Kept | None


class State(Enum):
    """Of a key that somebody asks about."""

    FREE = "free"
    RUNNING = "running"


def read(principal: Principal, header: str, path: str, said: Mapping[str, str], body: bytes) -> Key | None:
    """The key of a request, None without the header; `said`: its headers that decide where it may go. Raises Invalid.

    An answer that was given to a request as public is none to the same words as secret: no policy was asked of those.
    """
    if not header:
        return None
    if len(header) > LONGEST_KEY:
        raise Invalid(f"An Idempotency-Key has at most {LONGEST_KEY} characters.", param="idempotency-key")
    digest = hashlib.sha256(header.encode()).digest()
    lines = "".join(f"{name}: {value}\n" for name, value in sorted(said.items()))
    body_digest = hashlib.sha256(f"{path}\n{lines}".encode() + body).digest()
    return Key(principal.tenant_id, principal.key_id, digest, body_digest)


async def claim(connection: Connection, claims: Sequence[Claim]) -> set[UUID]:
    """Take the keys that are free; answers the jobs that got theirs. Waits for transactions that take the same."""
    if not claims:
        return set()
    # Always in the same order, so that two transactions never wait for each other; one of each key in a statement.
    first: dict[tuple[UUID, bytes], Claim] = {}
    for item in claims:
        first.setdefault((item.key.api_key_id, item.key.digest), item)
    ordered = [first[name] for name in sorted(first)]
    rows = await connection.execute(
        CLAIM,
        [
            HOURS,
            [uuid7() for _ in ordered],
            [item.key.tenant_id for item in ordered],
            [item.key.api_key_id for item in ordered],
            [item.key.digest for item in ordered],
            [item.key.body_digest for item in ordered],
            [item.job_id for item in ordered],
        ],
    )
    return {row[0] for row in await rows.fetchall()}


async def keep(connection: Connection, answers: Sequence[Answer]) -> None:
    """Write answers under their keys, in the transaction that settles their jobs."""
    for answer in answers:
        box = None
        if answer.kept is not None:
            box = sealed.seal(
                msgspec.msgpack.encode(answer.kept), table=TABLE, row=answer.job_id, column="response_sealed"
            )
        await connection.execute(KEEP, [200, box, answer.job_id])


async def find(database: Database, key: Key) -> Kept | State:
    """What is known of a key. Raises Mismatch for another body, Conflict when the answer was not kept."""
    async with database.transaction(key.tenant_id) as connection:
        rows = await connection.execute(LOOK, [key.api_key_id, key.digest])
        row = await rows.fetchone()
    if row is None:
        return State.FREE
    body_digest, status, response, job_id, state = row
    if bytes(body_digest) != key.body_digest:
        raise Mismatch(
            "This Idempotency-Key came before with another body, or with another class, other tags or another purpose;"
            " take a new key.",
            param="idempotency-key",
        )
    if status is None:
        return State.RUNNING if state in {"queued", "running", None} else State.FREE
    if response is None:
        raise Conflict(
            "The request under this Idempotency-Key succeeded before, and its answer is not kept: the residency policy"
            " does not let it be, or it was erased. Take a new key to ask again.",
            param="idempotency-key",
            code="answer_not_kept",
        )
    box = sealed.unseal(response, table=TABLE, row=job_id, column="response_sealed")
    return msgspec.msgpack.decode(box, type=Kept)


class Turns:
    """One request at a time under a key in this process, so that those who wait need not ask the database for news."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[UUID, bytes], asyncio.Lock] = WeakValueDictionary()

    def of(self, key: Key) -> asyncio.Lock:
        """The turn of a key; it is forgotten when nobody holds or awaits it."""
        lock = self._locks.get((key.api_key_id, key.digest))
        if lock is None:
            lock = self._locks[key.api_key_id, key.digest] = asyncio.Lock()
        return lock


async def settled(database: Database, key: Key) -> Kept | None:
    """Wait until the request that holds the key, in another process, has ended: its answer, or None when it failed
    and the key is free."""
    pause = FIRST_PAUSE
    while (found := await find(database, key)) is State.RUNNING:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return found if isinstance(found, Kept) else None
