"""Where content can lie: every table, store and file of a running platform, opened as whoever has all keys could."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql
from redis import Redis

from inference_worker.contract import frames as contract_frames
from inference_worker.contract.sealing import CannotOpen, FrameCipher
from kasbah.audit.content.opening import open_record
from kasbah.audit.models import Content
from kasbah.common import rls, sealed
from kasbah.serving.models import IdempotencyKey
from kasbah.serving.replysecret import reply_secret
from tests.gateway.stack import Stack

# Every column of bytes, and what is in it. A new one must be put here, and opened below if it can be content.
DIGEST, KEY = "a digest of something", "a key, or a secret that is none of a tenant's content"
BYTES = {
    "audit_checkpoint.root": DIGEST,
    "audit_content.ciphertext": "content: opened",
    "audit_content.opening": "of a commitment; goes with the content",
    "audit_content.record_key": "goes with the content",
    "audit_contentkey.wrapped": KEY,
    "audit_forwarder.client_key_sealed": KEY,
    "audit_forwarder.header_value_sealed": KEY,
    "audit_intake.event": "an event, looked through as it is",
    "audit_leaf.hash": DIGEST,
    "audit_log.frontier": DIGEST,
    "audit_prunable.hash": DIGEST,
    "identity_apikey.digest": DIGEST,
    "residency_signingkey.private_key_sealed": KEY,
    "residency_signingkey.public_key": KEY,
    "residency_site.broker_url_sealed": KEY,
    "residency_site.sealing_public_key": KEY,
    "residency_site.store_url_sealed": KEY,
    "residency_sitekey.private_key_sealed": KEY,
    "residency_sitekey.public_key": KEY,
    "serving_enrolmenttoken.secret_sealed": KEY,
    "serving_formerworkerkey.public_key": KEY,
    "serving_idempotencykey.body_digest": "a digest of the request; expires in a day (erasure.md)",
    "serving_idempotencykey.key_digest": DIGEST,
    "serving_idempotencykey.response_sealed": "content: opened",
    "serving_job.payload": "content; emptied when the job ends, which is looked for",
    "serving_worker.box_key": KEY,
    "serving_worker.public_key": KEY,
}


def places_of(canary: str, stack: Stack, superuser: psycopg.Connection[Any]) -> set[str]:
    """Names of all places in which `canary` lies, plain or sealed."""
    found = {name for name, data in _places(stack, superuser) if canary.encode() in data}
    rows = superuser.execute("SELECT count(*) FROM serving_job WHERE payload IS NOT NULL AND finished_at IS NOT NULL")
    assert rows.fetchone() == (0,), "the payload of a job that ended"
    return found


def _places(stack: Stack, superuser: psycopg.Connection[Any]) -> Iterator[tuple[str, bytes]]:
    yield from _tables(superuser)
    with rls.platform_scope():
        for row in Content.objects.select_related("key"):
            yield "audit_content, opened", (open_record(row).content or "").encode()
        for held in IdempotencyKey.objects.exclude(response_sealed=None):
            box = bytes(held.response_sealed or b"")
            yield (
                "serving_idempotencykey, opened",
                sealed.unseal(box, table="serving_idempotencykey", row=held.job_id, column="response_sealed"),
            )
    for slug, place in stack.places.items():
        with Redis.from_url(place.store.url) as store:
            yield from _store(f"store of {slug}", store)
    with Redis.from_url(os.environ["KASBAH_REDIS_URL"]) as store:
        yield from _store("control store", store)
    for path in stack.home.rglob("*"):
        if path.is_file() and path not in (stack.journal, stack.engine):  # the fake engine's own
            yield f"file {path.name}", path.read_bytes()


def _tables(superuser: psycopg.Connection[Any]) -> Iterator[tuple[str, bytes]]:
    names = superuser.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    for (name,) in names:
        for row in superuser.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))):
            for value in row:
                yield f"table {name}", value if isinstance(value, bytes) else str(value).encode()


def _store(name: str, store: Redis) -> Iterator[tuple[str, bytes]]:
    for key in store.scan_iter():
        kind: str = store.type(key).decode()  # type: ignore[union-attr]
        if kind == "stream":
            for _, fields in store.xrange(key):  # type: ignore[union-attr]
                yield f"{name}: {key!r}", b"".join(fields.values())
                if key.startswith(b"ksb:frames:"):
                    _, _, job, attempt = key.decode().split(":")
                    yield f"{name}, frames opened", _frame(job, int(attempt), fields)
        else:
            reader = {"string": "GET", "hash": "HGETALL", "set": "SMEMBERS", "zset": "ZRANGE", "list": "LRANGE"}[kind]
            limits = ("0", "-1") if kind in ("zset", "list") else ()
            yield f"{name}: {key!r}", repr(store.execute_command(reader, key, *limits)).encode()


def _frame(job: str, attempt: int, fields: dict[bytes, bytes]) -> bytes:
    cipher = FrameCipher(reply_secret(UUID(job)), job, attempt)
    try:
        frames = contract_frames.unpack(cipher.open(int(fields[b"s"]), fields[b"f"]))
    except (CannotOpen, msgspec.MsgspecError):
        return b""
    return repr(frames).encode()
