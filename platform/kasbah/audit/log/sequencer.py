"""The second of the log's two steps: events that are committed get their place, in commit order, and are signed for.

One transaction: leaves, frontiers, checkpoints, cursor. Then the tiles, which can be written again at any time. What
cannot be signed (memory.SignerRefuses) stops the sequencer and nothing else: intake goes on, and nothing is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import F, Q
from django.utils import timezone

from inference_worker.contract.loggate import LogGate
from kasbah.audit.log import cluster, keys
from kasbah.audit.log.memory import Memory, SignerRefuses
from kasbah.audit.log.merkle import Frontier, range_root
from kasbah.audit.log.models import Leaf, Log, SignedCheckpoint
from kasbah.audit.log.note import Checkpoint
from kasbah.audit.log.tiles import TileFolder, TileMissing, TileTree
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.audit.services.receipts import origin_of
from kasbah.common import rls
from kasbah.common.ids import uuid7

BATCH = 5_000  # events in one transaction
ANCHOR = timedelta(seconds=60)  # a tenant's checkpoint goes into the system log this often at most
LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('kasbah.audit.sequencer', 0))"
WAIT = LOCK.replace("pg_try_", "pg_")  # for the sequencer to end its run, and keep it from the next
# A commit can no longer slip in before a row whose transaction is older than every one that runs; `id > last` alone
# would skip what commits late. Of earlier eras (kasbah.audit.log.cluster) every transaction has ended. The leaves say
# what has a place; the cursor says where to begin to look.
NEXT = """
    SELECT id, tenant_id, sha256(decode('00', 'hex') || event), era, xid::text AS written FROM audit_intake
    WHERE (era, xid, id) > (%s, %s::text::xid8, %s)
    AND (era < (SELECT audit_era()) OR xid < pg_snapshot_xmin(pg_current_snapshot()))
    AND NOT EXISTS (SELECT FROM audit_leaf AS leaf WHERE leaf.event_id = audit_intake.id)
    ORDER BY era, audit_intake.xid, id LIMIT %s
"""
UNPLACED = """
    SELECT count(*) FROM audit_intake
    WHERE (era, xid, id) > (%s, %s::text::xid8, %s) AND tenant_id IS NOT DISTINCT FROM %s
    AND NOT EXISTS (SELECT FROM audit_leaf AS leaf WHERE leaf.event_id = audit_intake.id)
"""
# What the cursor has gone past without giving it a place: none, as long as ids only grow.
PASSED_OVER = UNPLACED.replace("(era, xid, id) >", "(era, xid, id) <=")
INSERT_LEAVES = """
    INSERT INTO audit_leaf (event_id, tenant_id, log_id, index, hash)
    SELECT e, t, l, i, h FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::bigint[], %b::bytea[]) AS u(e, t, l, i, h)
"""

START = (0, "0", UUID(int=0))
logger = logging.getLogger(__name__)
_gate = LogGate()
_Row = tuple[UUID, UUID | None, bytes, int, str]  # event, tenant, leaf, era, transaction


@dataclass(frozen=True, slots=True)
class Sequenced:
    """What one run did. `more` says that events were left for the next."""

    events: int
    logs: int
    more: bool


@dataclass(frozen=True, slots=True)
class _Grown:
    log: Log
    before: Frontier
    after: Frontier
    events: list[UUID]
    hashes: list[bytes]


def sequence(limit: int = BATCH) -> Sequenced:
    """Give committed events their places, at most `limit`. Does nothing when another sequencer is at work.

    Raises memory.SignerRefuses, of which cluster.OtherCluster is one.
    """
    memory = Memory.of_installation()
    with memory.lock(), rls.platform_scope():
        if not _alone():
            return Sequenced(0, 0, more=False)
        place = cluster.find()
        place.refuse()
        rows = _next(limit)
        grown = [_grow(tenant, of) for tenant, of in _by_tenant(rows).items()]
        for log in grown:
            memory.agree(log.log.origin, log.before, log.after, _root_at(log))
        signing = [keys.held(log.log) for log in grown]
        checkpoints = [Checkpoint(log.log.origin, log.after.size, log.after.root()) for log in grown]
        for checkpoint in checkpoints:
            memory.keep(checkpoint)  # before the commit: a signature that might get out is always remembered
        _write(grown, checkpoints, signing)
        if rows:
            _advance(rows[-1])
        cluster.keep(place)
        _anchor(timezone.now())
    write_tiles()
    return Sequenced(len(rows), len(grown), more=len(rows) == limit)


def folder() -> Path:
    """Where tiles and the signer's memory lie."""
    return Path(settings.AUDIT_DIR)


def tiles(log: Log) -> TileFolder:
    """The tiles of a log."""
    return TileFolder(folder() / "tiles" / (str(log.tenant_id) if log.tenant_id else "system"))


def write_tiles() -> None:
    """Write the tiles that are behind, those of a run that was cut off too. Writing some again changes nothing.

    One writer at a time: a full tile takes the place of the folder into which another would just write its part.
    A log whose tiles cannot be written stays behind, and keeps no other from its own.
    """
    with Memory.of_installation().lock(), rls.platform_scope():
        for log in Log.objects.filter(tiled__lt=F("size")).order_by("id"):
            leaves = Leaf.objects.filter(log=log, index__gte=log.tiled, index__lt=log.size).order_by("index")
            try:
                tiles(log).extend(log.tiled, [bytes(value) for value in leaves.values_list("hash", flat=True)])
            except (OSError, TileMissing) as error:
                if _gate.due(log.origin, str(error)):
                    logger.error("Tiles of %s are not written: %s. Run: manage.py auditlog tiles", log.origin, error)  # noqa: TRY400
                continue
            _gate.ended(log.origin)
            Log.objects.filter(pk=log.pk, tiled__lt=log.size).update(tiled=log.size)


def _alone() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(LOCK)
        row = cursor.fetchone()
    return bool(row and row[0])


def _next(limit: int) -> list[_Row]:
    with connection.cursor() as cursor:
        cursor.execute(NEXT, [*_reached(), limit])
        return [(row[0], row[1], bytes(row[2]), row[3], row[4]) for row in cursor.fetchall()]


def unplaced(tenant_id: UUID | None) -> int:
    """How many committed events of a log have no place yet. Asks for those after the cursor alone, unless that is of
    another cluster."""
    reached = START if cluster.find().other else _reached()
    with connection.cursor() as cursor:
        cursor.execute(UNPLACED, [*reached, tenant_id])
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def passed_over(tenant_id: UUID | None) -> int:
    """How many committed events of a log stand before the cursor and have no place: no run would ever find them."""
    with connection.cursor() as cursor:
        cursor.execute(PASSED_OVER, [*_reached(), tenant_id])
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def _reached() -> tuple[int, str, UUID]:
    """The era, transaction and event up to which events have their places."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT era, xid::text, event_id FROM audit_cursor")
        return cursor.fetchone() or START


def _by_tenant(
    rows: Sequence[_Row],
) -> dict[UUID | None, tuple[list[UUID], list[bytes]]]:
    found: dict[UUID | None, tuple[list[UUID], list[bytes]]] = {}
    for event, tenant, digest, _, _ in rows:
        events, hashes = found.setdefault(tenant, ([], []))
        events.append(event)
        hashes.append(digest)
    return found


def _grow(tenant: UUID | None, of: tuple[list[UUID], list[bytes]]) -> _Grown:
    log, _ = Log.objects.get_or_create(tenant_id=tenant, defaults={"origin": origin_of(tenant)})
    before = frontier_of(log)
    return _Grown(log, before, before.extended(of[1]), *of)


def frontier_of(log: Log) -> Frontier:
    """What a log was grown to. Raises SignerRefuses where its row no longer says it."""
    try:
        return Frontier.unpack(log.size, bytes(log.frontier))
    except ValueError as error:
        raise SignerRefuses(f"{log.origin}: {error}. Its row was changed; run: manage.py auditlog check") from error


def _root_at(grown: _Grown) -> Callable[[int], bytes]:
    """Root of the grown tree's first leaves, as memory.Memory asks for it."""

    def root(size: int) -> bytes:
        if size >= grown.before.size:
            return grown.before.extended(grown.hashes[: size - grown.before.size]).root()
        tree = TileTree(grown.log.tiled, tiles(grown.log).read)
        try:
            return range_root(0, size, tree.node)
        except TileMissing as error:
            raise SignerRefuses(f"{grown.log.origin}: {error}. Run: manage.py auditlog tiles") from error

    return root


def _write(grown: Sequence[_Grown], checkpoints: Sequence[Checkpoint], signing: Sequence[keys.Held]) -> None:
    columns: tuple[list[object], ...] = ([], [], [], [], [])
    for log in grown:
        for offset, (event, digest) in enumerate(zip(log.events, log.hashes, strict=True)):
            values = (event, log.log.tenant_id, log.log.pk, log.before.size + offset, digest)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    with connection.cursor() as cursor:
        if grown:
            cursor.execute(INSERT_LEAVES, list(columns))
    for log, key in zip(grown, signing, strict=True):
        Log.objects.filter(pk=log.log.pk).update(size=log.after.size, frontier=log.after.pack(), key=key.key.vkey())
    SignedCheckpoint.objects.bulk_create(
        SignedCheckpoint(
            log=log.log,
            tenant_id=log.log.tenant_id,
            size=checkpoint.size,
            root=checkpoint.root,
            note=str(key.note(checkpoint.text())),
        )
        for log, checkpoint, key in zip(grown, checkpoints, signing, strict=True)
    )


def _advance(last: _Row) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_cursor (id, era, xid, event_id) VALUES (1, %s, %s::text::xid8, %s) "
            "ON CONFLICT (id) DO UPDATE SET era = excluded.era, xid = excluded.xid, event_id = excluded.event_id",
            [last[3], last[4], last[0]],
        )


def _anchor(now: datetime) -> None:
    """Tell the system log of the tenants' checkpoints, so that none can be rewritten without rewriting it too."""
    due = Log.objects.filter(Q(anchored_at=None) | Q(anchored_at__lt=now - ANCHOR), anchored__lt=F("size"))
    for log in due.exclude(tenant_id=None):
        root = frontier_of(log).root()
        record(
            Event(
                type=EventType.LOG_CHECKPOINT,
                tenant_id=None,
                actor=ActorRef("system", "sequencer", "process"),
                resource=Resource("log", log.origin, root.hex()),
                details={"size": log.size},
                id=uuid7(),
            )
        )
        Log.objects.filter(pk=log.pk).update(anchored=log.size, anchored_at=now)
