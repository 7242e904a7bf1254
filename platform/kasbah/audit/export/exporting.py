"""Exports of a log out of the database: which range, and its events in order, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO
from uuid import UUID

from django.db import connection

from kasbah.audit.export.bundle import Range, Source, write_bundle
from kasbah.audit.log import keys, sequencer
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Cosignature, Leaf, Log, SignedCheckpoint
from kasbah.audit.log.note import Note
from kasbah.audit.log.tiles import TileTree
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.common.errors import NotFound, Unavailable
from kasbah.common.requestid import current

WAIT = timedelta(minutes=10)  # by which an export lies back, so that a witness has signed it
PAGE = 2_000  # events in memory
READ = """
    SELECT intake.event FROM audit_leaf AS leaf JOIN audit_intake AS intake ON intake.id = leaf.event_id
    WHERE leaf.log_id = %s AND leaf.index >= %s AND leaf.index < %s ORDER BY leaf.index
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    origin: str
    start: int
    end: int
    size: int
    manifest: str  # SHA-256, hex


def choose(tenant_id: UUID | None, since: datetime | None, until: datetime | None) -> tuple[Log, Range]:
    """The range of a log that holds every event of a period, under the newest checkpoint. Raises NotFound."""
    log = Log.objects.filter(tenant_id=tenant_id).first()
    newest = None
    if log is not None:
        newest = _checkpoint(log)
    if log is None or newest is None:
        raise NotFound("The log has no signed event yet; try again in a second.")
    leaves = Leaf.objects.filter(log=log, index__lt=newest.size)
    start, end = 0, newest.size
    if since is not None:
        first = leaves.filter(event_id__gte=_floor(since)).order_by("index").values_list("index", flat=True).first()
        start = newest.size if first is None else first
    if until is not None:
        last = leaves.filter(event_id__lt=_floor(until)).order_by("-index").values_list("index", flat=True).first()
        end = start if last is None else max(start, last + 1)
    return log, Range(start, end, _with_witnesses(newest))


def export(
    file: IO[bytes], log: Log, wanted: Range, actor: ActorRef, progress: Callable[[int], None] = lambda _: None
) -> Exported:
    """Write an export; that it was made is an event of the log. In a scope that sees the log's tenant.

    Raises bundle.ExportBroken, tiles.TileMissing, Unavailable.
    """
    tree = TileTree(wanted.signed.size, sequencer.tiles(log).read)
    successions = [row.note for row in keys.successions(log)]
    source = Source(lambda start, end: _events(log, start, end), tree.node, sequencer.tiles(log).read, successions)
    held = _held(log)
    digest = write_bundle(file, wanted, source, key=held.key, private=held.signer.sign_bytes, progress=progress)
    record(
        Event(
            type=EventType.AUDIT_EXPORTED,
            tenant_id=log.tenant_id,
            actor=actor,
            resource=Resource("audit_export", f"{wanted.start}..{wanted.end}", digest),
            request_id=current(),
            details={"events": wanted.end - wanted.start, "size": wanted.signed.size},
        )
    )
    return Exported(log.origin, wanted.start, wanted.end, wanted.signed.size, digest)


def _held(log: Log) -> keys.Held:
    try:
        return keys.held(log)
    except SignerRefuses as error:
        raise Unavailable(str(error)) from error


def _checkpoint(log: Log) -> SignedCheckpoint | None:
    """The newest checkpoint; one that a witness signed where it is not much older."""
    signed = log.proven()
    newest = signed.first()
    witnessed = signed.exclude(cosignatures=None).first()
    if newest is not None and witnessed is not None and newest.created_at - witnessed.created_at < WAIT:
        return witnessed
    return newest


def _with_witnesses(checkpoint: SignedCheckpoint) -> Note:
    lines = Cosignature.objects.filter(checkpoint=checkpoint).order_by("witness").values_list("line", flat=True)
    return Note.parse(checkpoint.note + "".join(lines))


def _events(log: Log, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, PAGE):
        with connection.cursor() as cursor:
            cursor.execute(READ, [log.pk, at, min(at + PAGE, end)])
            for (event,) in cursor.fetchall():
                yield bytes(event)


def _floor(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a millisecond: events are named by when they happened."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (0x7 << 76) | (0b10 << 62))
