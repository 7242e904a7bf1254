"""Exports of a log out of the database: what is asked for, under which checkpoint, and its events, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.db import connection

from kasbah.audit.export import beside
from kasbah.audit.export.bundle import Progress, Source, write_bundle
from kasbah.audit.export.companions import companions
from kasbah.audit.export.plan import RANGE, Gap, Plan, Run, joined, kept, pieces
from kasbah.audit.export.selection import PERSON, Chosen, Selection
from kasbah.audit.export.work import Work
from kasbah.audit.log import keys, proofs, sequencer, witnessing
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Leaf, Log, Pruned, SignedCheckpoint
from kasbah.audit.log.note import BadNote, Checkpoint, Note
from kasbah.audit.log.pruning import keep_while_read
from kasbah.audit.log.stored import LogAltered, read_checkpoint, read_cosignatures, read_successions
from kasbah.audit.log.tiles import TileMissing, TileTree
from kasbah.audit.models import Part
from kasbah.audit.services.events import Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.common.errors import Invalid, NotFound, Unavailable
from kasbah.common.numbers import LARGEST_SIZE
from kasbah.common.requestid import current

WAIT = timedelta(minutes=10)  # by which an export lies back, so that a witness has signed it
PARTS = {"prompt": [Part.PROMPT.value], "answer": [Part.ANSWER.value], "all": list(Part.values)}  # that can be opened
PAGE = 2_000  # events in memory
# Run by run, each bounded: joined at once, the planner now and then takes the whole table for a page of it.
READ = f"""
    SELECT shown.event FROM unnest(%s::bigint[], %s::bigint[]) AS run (first, past) CROSS JOIN LATERAL (
        SELECT leaf.index, intake.event FROM audit_leaf AS leaf JOIN audit_intake AS intake ON intake.id = leaf.event_id
        WHERE leaf.log_id = %s AND leaf.index >= run.first AND leaf.index < run.past ORDER BY leaf.index LIMIT {PAGE}
    ) AS shown ORDER BY shown.index
"""  # noqa: S608 - a constant
SCAN = """
    SELECT leaf.index, intake.event FROM audit_leaf AS leaf JOIN audit_intake AS intake ON intake.id = leaf.event_id
    WHERE leaf.log_id = %s AND leaf.index < %s AND position(%s::bytea IN intake.event) > 0 ORDER BY leaf.index
"""
LAST_EXPORT = """
    SELECT intake.event FROM audit_intake AS intake JOIN audit_leaf AS leaf ON leaf.event_id = intake.id
    WHERE intake.type = %s AND leaf.log_id = %s AND leaf.index < %s ORDER BY leaf.index DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody asks for. `opened` names the parts of requests (audit.models.Part) whose content is to be opened;
    `since_size`: with the checkpoint of that size the log is to be shown to be consistent. `most`: events that are not
    too many."""

    tenant_id: UUID | None
    since: datetime | None = None
    until: datetime | None = None
    selection: Selection = field(default_factory=Selection)
    opened: Sequence[str] = ()
    since_size: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What will be exported. `requests` are those that a selection is about."""

    log: Log
    plan: Plan
    as_of: datetime  # when the checkpoint was signed
    requests: Sequence[str]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    origin: str
    start: int
    end: int
    events: int
    size: int
    manifest: str  # SHA-256, hex


def choose(wanted: Wanted, actor: Any, under: str = "") -> Choice:
    """What is to be exported, under the newest checkpoint, or, to go on with an export, under the one it was begun
    with (`under`, a note). In a scope that sees the tenant.

    Raises NotFound, Forbidden and Invalid, which name the parameter, LogAltered and Unavailable.
    """
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise Invalid("The period ends before it begins.", param="to")
    _check_may_open(wanted, actor)
    keep_while_read(wanted.tenant_id)
    log = Log.objects.filter(tenant_id=wanted.tenant_id).first()
    newest = _checkpoint(log, under) if log is not None else None
    if log is None or newest is None:
        raise NotFound("The log has no signed event yet; try again in a second.")
    start, end = _range(log, newest.size, wanted)
    pruned, newest = _pruned(log, newest)
    runs, requests = _shown(log, wanted, start, end, pruned)
    plan = Plan(
        selection=wanted.selection.facts,
        start=start,
        end=end,
        checkpoint=Note.parse(under) if under and _same(under, newest) else _with_witnesses(newest),
        runs=runs,
        pruned=pruned,
        previous=_previous(log, newest.size, wanted.since_size),
        opened=sorted(wanted.opened),
    )
    return Choice(log, plan, newest.created_at, requests)


def export(
    file: IO[bytes], work: Work, choice: Choice, actor: Any, progress: Progress = lambda _done, _of: None
) -> Exported:
    """Write an export; that it was made is an event of the log. In a scope that sees the log's tenant.

    Raises bundle.ExportBroken, work.Damaged, LogAltered, Unavailable.
    """
    log, plan = choice.log, choice.plan
    tree = TileTree(plan.signed.size, sequencer.tiles(log).read)
    more = beside.Beside(choice, actor, tree.node, work)
    source = Source(
        lambda runs: _events(log, runs),
        tree.node,
        sequencer.tiles(log).read,
        more.files,
        read_successions(log),
    )
    held = _held(log)
    try:
        digest = write_bundle(file, work, plan, source, key=held.key, private=held.signer.sign_bytes, progress=progress)
    except TileMissing as error:
        raise proofs.tiles_unreadable(error) from error
    details: dict[str, str | int | bool | list[str]] = {"events": plan.events, "size": plan.signed.size}
    if not plan.whole:
        details |= {"selection": plan.selection["kind"], "by": plan.selection["by"]}
    if plan.opened:
        details["opened"] = list(plan.opened)
    record(
        Event(
            type=EventType.AUDIT_EXPORTED,
            tenant_id=log.tenant_id,
            actor=actor.ref,
            resource=Resource("audit_export", f"{plan.start}..{plan.end}", digest),
            request_id=current(),
            details=details,
        )
    )
    return Exported(log.origin, plan.start, plan.end, plan.events, plan.signed.size, digest)


def _held(log: Log) -> keys.Held:
    try:
        return keys.held(log)
    except SignerRefuses as error:
        raise Unavailable(str(error)) from error


def begin(folder: Path, wanted: Wanted, actor: Any) -> tuple[Work, Choice, bool]:
    """Choose, and take up the work in `folder` where it was cut off. The last is False when what lay there was for
    something else, and is gone. Raises like `choose`, and Conflict while another export writes there."""
    work = Work(folder)
    try:
        choice = choose(wanted, actor, work.checkpoint)
        same = work.begin(choice.plan.digest(), str(choice.plan.checkpoint))
    except BaseException:
        if not work.checkpoint:
            work.remove()  # nothing was begun here
        work.close()
        raise
    return work, choice, same


def _check_may_open(wanted: Wanted, actor: Any) -> None:
    if not wanted.opened:
        return
    if wanted.tenant_id is None or not wanted.selection.opens:
        raise Invalid("Content is opened for one request or one person of a tenant.", param="open")
    companions.read_by().check(actor, wanted.tenant_id)


def _range(log: Log, size: int, wanted: Wanted) -> tuple[int, int]:
    """First and past event of the period."""
    leaves = Leaf.objects.filter(log=log, index__lt=size)
    start, end = 0, size
    if wanted.since is not None:
        first = leaves.filter(event_id__gte=_floor(wanted.since)).order_by("index").values_list("index", flat=True)
        start = next(iter(first[:1]), size)
    if wanted.until is not None:
        last = leaves.filter(event_id__lt=_floor(wanted.until)).order_by("-index").values_list("index", flat=True)
        end = max(start, next(iter(last[:1]), start - 1) + 1)
    return start, end


def _checkpoint(log: Log, under: str) -> SignedCheckpoint | None:
    """The newest checkpoint; one that a witness signed where it is not much older; the one that is named."""
    signed = log.proven()
    begun = _begun(under)
    if begun is not None:
        same = signed.filter(size=begun.size, root=begun.root).first()
        if same is not None:
            return same
    newest = signed.first()
    witnessed = signed.exclude(cosignatures=None).first()
    if newest is not None and witnessed is not None and newest.created_at - witnessed.created_at < WAIT:
        return witnessed
    return newest


def _begun(under: str) -> Checkpoint | None:
    """What an export was begun with; None where it was not, or the folder's note is none any more."""
    try:
        return Checkpoint.parse(Note.parse(under).text) if under else None
    except BadNote:
        return None


def _same(under: str, checkpoint: SignedCheckpoint) -> bool:
    return _begun(under) is not None and Note.parse(under).text == read_checkpoint(checkpoint).text


def _with_witnesses(checkpoint: SignedCheckpoint) -> Note:
    note = read_checkpoint(checkpoint)
    return Note.parse(str(note) + read_cosignatures(checkpoint, [one.key for one in witnessing.configured()]))


def _pruned(log: Log, checkpoint: SignedCheckpoint) -> tuple[list[Gap], SignedCheckpoint]:
    """What was pruned, and a checkpoint of a log that tells of all of it. Raises Unavailable."""
    rows = list(Pruned.objects.filter(log=log).order_by("start"))
    told = dict(Leaf.objects.filter(event_id__in={row.event_id for row in rows}).values_list("event_id", "index"))
    for signed in (checkpoint, log.proven().first() or checkpoint):
        if all(told.get(row.event_id, signed.size) < signed.size for row in rows):
            return [Gap(row.start, row.end, "pruned", str(row.event_id)) for row in rows], signed
    raise Unavailable("Events were pruned a moment ago, and the log does not tell of it yet; try again.", retry_after=1)


def _shown(
    log: Log, wanted: Wanted, start: int, end: int, pruned: Sequence[Gap]
) -> tuple[Sequence[Run], Sequence[str]]:
    """What the selection takes of the range, and the requests that it is about."""
    selection = wanted.selection
    if selection.kind == RANGE:
        found = kept(start, end, pruned)
        _check_most(sum(run.end - run.start for run in found), wanted)
        return found, ()
    own: Iterable[str] = ()
    if selection.kind == PERSON and wanted.tenant_id is not None:
        own = companions.keys_of(wanted.tenant_id, UUID(selection.by))
    chosen = Chosen(selection, own)
    wants = (index for index, event in _scan(log, end, selection.needle) if chosen.wants(event) and index >= start)
    runs = joined(_at_most(wants, wanted))
    if not runs:
        raise NotFound(f"No event of the log is about this {selection.kind}.", param=selection.kind)
    return runs, sorted(chosen.requests)


def _at_most(numbers: Iterable[int], wanted: Wanted) -> Iterator[int]:
    for count, number in enumerate(numbers, 1):
        _check_most(count, wanted)
        yield number


def _check_most(events: int, wanted: Wanted) -> None:
    if wanted.most is not None and events > wanted.most:
        raise Invalid(
            f"These are more than {wanted.most} events, the most that one answer has: ask for a shorter period, or have"
            " an operator run: manage.py auditexport",
            param="from",
        )


def _scan(log: Log, end: int, needle: bytes) -> Iterator[tuple[int, bytes]]:
    with connection.chunked_cursor() as cursor:
        cursor.execute(SCAN, [log.pk, end, needle])
        while rows := cursor.fetchmany(PAGE):
            yield from ((index, bytes(event)) for index, event in rows)


def _previous(log: Log, size: int, since_size: int | None) -> Note | None:
    """The earlier checkpoint: the one asked for, that of the last export under this one, or the one before.

    Nothing that is written after this checkpoint changes it: the same export stays the same. Raises Invalid,
    LogAltered.
    """
    earlier = log.proven().filter(size__lt=size)
    if since_size is not None:
        found = earlier.filter(size=since_size).first()
        if found is None:
            near = ", ".join(str(row.size) for row in earlier.filter(size__lte=since_size)[:3])
            raise Invalid(
                f"No checkpoint of {since_size} events is known before this one. Near it: {near or 'none'}.",
                param="since_size",
            )
        return read_checkpoint(found)
    revoked = log.successions.filter(note="").order_by("-created_at", "-id").first()
    if revoked is not None:
        earlier = earlier.filter(size__gt=revoked.size)  # an older one is signed by a key that vouches for nothing
    with connection.cursor() as cursor:
        cursor.execute(LAST_EXPORT, [EventType.AUDIT_EXPORTED.value, log.pk, size])
        row = cursor.fetchone()
    exported = _exported_size(bytes(row[0])) if row else 0
    found = (earlier.filter(size=exported).first() if exported else None) or earlier.first()
    return read_checkpoint(found) if found is not None else None


def _exported_size(event: bytes) -> int:
    """Of how many events the log was that an event tells to have been exported. Raises LogAltered."""
    try:
        size = beside.parsed(event)["details"]["size"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise LogAltered("The event of the last export is none") from error
    return size if type(size) is int and 0 < size <= LARGEST_SIZE else 0


def _events(log: Log, runs: Sequence[Run]) -> Iterator[bytes]:
    for page in pieces(runs, PAGE):
        with connection.cursor() as cursor:
            cursor.execute(READ, [[run.start for run in page], [run.end for run in page], log.pk])
            for (event,) in cursor.fetchall():
                yield bytes(event)


def _floor(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a millisecond: events are named by when they happened."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (0x7 << 76) | (0b10 << 62))
