"""Looking after the logs: whether the database still holds what was signed, and mending what may be mended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from django.db import connection

from kasbah.audit.export.verifier.events import Events, check_part
from kasbah.audit.export.verifier.failure import Failed
from kasbah.audit.log import cluster, keys, merkle, sequencer, stored, witnessing
from kasbah.audit.log.memory import Memory, SignerRefuses
from kasbah.audit.log.merkle import Frontier
from kasbah.audit.log.models import Leaf, Log, SignedCheckpoint
from kasbah.audit.log.note import BadNote, Checkpoint, Key, Note
from kasbah.audit.log.pruning import PrunedRanges, keep_while_read
from kasbah.audit.log.tiles import TileMissing, TileTree
from kasbah.audit.models import Intake
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.audit.services.receipts import origin_of
from kasbah.common import rls

PAGE = 10_000  # events read at once


def logs() -> list[Log]:
    """Every log, the system's first."""
    with rls.platform_scope():
        return sorted(Log.objects.all(), key=lambda log: (log.tenant_id is not None, log.origin))


def problems(log: Log) -> Iterator[str]:
    """What is wrong with a log, read from its first event on; nothing when every byte is as it was signed."""
    with rls.platform_scope():
        keep_while_read(log.tenant_id)
        log = Log.objects.get(pk=log.pk)
        frontier, pruned, seen = Frontier(), PrunedRanges(log), Events()
        for start in range(0, log.size, PAGE):
            leaves = list(Leaf.objects.filter(log=log, index__gte=start, index__lt=start + PAGE).order_by("index"))
            if [leaf.index for leaf in leaves] != list(range(start, min(start + PAGE, log.size))):
                yield f"{log.origin}: leaves between {start} and {start + PAGE} are missing"
                return
            events = Intake.objects.in_bulk([leaf.event_id for leaf in leaves])
            whole: list[tuple[int, Intake]] = []
            for leaf in leaves:
                event = events.get(leaf.event_id)
                if event is None and pruned.covers(leaf):
                    pass
                elif event is None or event.tenant_id != log.tenant_id:
                    yield f"{log.origin}: event {leaf.event_id} (index {leaf.index}) is gone"
                elif merkle.leaf_hash(bytes(event.event)) != bytes(leaf.hash):
                    yield f"{log.origin}: event {leaf.event_id} (index {leaf.index}) was changed"
                else:
                    whole.append((leaf.index, event))
            yield from _read(log, whole, seen)
            yield from _anchored([row for _, row in whole if row.type == EventType.LOG_CHECKPOINT.value])
            for found in _checkpoints(log, frontier, [bytes(leaf.hash) for leaf in leaves]):
                if isinstance(found, Frontier):
                    frontier = found
                else:
                    yield found
        yield from pruned.problems()
        if missed := sequencer.passed_over(log.tenant_id):
            yield f"{log.origin}: {missed} events have no place and stand before what the sequencer reached"
        yield from _signed(log, frontier)
    yield from _remembered(log, frontier)


def _read(log: Log, whole: Sequence[tuple[int, Intake]], seen: Events) -> Iterator[str]:
    """What the verifier of an export would say of these events, by its own code; and whether the columns by which the
    database finds an event are those of its bytes."""
    part = check_part(
        str(log.tenant_id or "system"), [index for index, _ in whole], [bytes(row.event) + b"\n" for _, row in whole]
    )
    try:
        seen.take(part)
    except Failed as failure:
        yield f"{log.origin}: {failure.name}: {failure}"
    for index, row in whole:
        with suppress(ValueError, AttributeError):  # said above: not a JSON object
            said = json.loads(bytes(row.event))
            if (said.get("id"), said.get("type"), said.get("request_id", "")) != (
                str(row.pk),
                row.type,
                row.request_id,
            ):
                yield f"{log.origin}: event {row.pk} (index {index}) is kept under another id, type or request"


def _anchored(events: Sequence[Intake]) -> Iterator[str]:
    """Checkpoints of the tenants' logs that the system log tells of, and that are gone or others now."""
    told: dict[tuple[str, int], str] = {}
    for row in events:
        with suppress(ValueError, LookupError, TypeError):  # said above
            said = json.loads(bytes(row.event))
            told[said["resource"]["id"], said["details"]["size"]] = said["resource"]["digest"]
    if not told:
        return
    names, sizes = zip(*told, strict=True)
    rows = SignedCheckpoint.objects.filter(log__origin__in=set(names), size__in=set(sizes))
    kept = {(name, size): bytes(root).hex() for name, size, root in rows.values_list("log__origin", "size", "root")}
    for (name, size), root in sorted(told.items()):
        if kept.get((name, size)) != root:
            gone = "is another" if (name, size) in kept else "is gone"
            yield f"{name}: the checkpoint of {size} events, of which the system log tells, {gone}"


def _checkpoints(log: Log, frontier: Frontier, leaves: Sequence[bytes]) -> Iterator[str | Frontier]:
    """What is wrong with the checkpoints of the sizes that the tree passes through while these leaves are added; at the
    end the tree itself."""
    start, end = frontier.size, frontier.size + len(leaves)
    witnesses = [one.key for one in witnessing.configured()]
    for row in SignedCheckpoint.objects.filter(log=log, size__gt=start, size__lte=end).order_by("size"):
        frontier = frontier.extended(leaves[frontier.size - start : row.size - start])
        found = list(stored.findings(log, row, witnesses))
        if not found and bytes(row.root) != frontier.root():
            found = [f"{log.origin}: the checkpoint of {row.size} events is about another tree"]
        yield from found
    yield frontier.extended(leaves[frontier.size - start :])


def _signed(log: Log, frontier: Frontier) -> Iterator[str]:
    if frontier.pack() != bytes(log.frontier):
        yield f"{log.origin}: the tree of the leaves is not the one that the log was grown to"
    newest = SignedCheckpoint.objects.filter(log=log).order_by("-size").first()
    if newest is None and log.size:
        yield f"{log.origin}: no checkpoint is kept"
    elif newest is not None and newest.size != log.size:
        yield f"{log.origin}: the newest checkpoint is about another tree, of {newest.size} events"
    try:
        if log.origin != origin_of(log.tenant_id):
            yield f"{log.origin}: the log's name is not {origin_of(log.tenant_id)}"
        signs = keys.key_of(log)
        if newest is not None and signs is not None and not _signs(newest, signs, log):
            yield f"{log.origin}: the newest checkpoint is not signed by this log's key"
        stored.read_successions(log)
    except SignerRefuses as error:
        yield str(error)
    except BadNote as error:
        yield f"{log.origin}: the newest checkpoint, or the key before: {error}"
    except stored.LogAltered as error:
        yield error.finding


def _signs(newest: SignedCheckpoint, key: Key, log: Log) -> bool:
    """Whether this key signed it, or the one before, when the log has not grown since it handed over."""
    last = log.successions.order_by("-created_at", "-id").first()
    before = [Key.parse(last.old)] if last is not None and last.old and last.size == newest.size else []
    return bool(Note.parse(newest.note).verified([key, *before]))


def _remembered(log: Log, frontier: Frontier) -> Iterator[str]:
    try:
        last = Memory.of_installation().last(log.origin)
        if last is None:
            yield f"{log.origin}: the signer remembers nothing of it"
        elif last.size > log.size or (last.size == log.size and last.root != frontier.root()):
            yield f"{log.origin}: the signer remembers another tree, of {last.size} events"
        tree = TileTree(log.tiled, sequencer.tiles(log).read)
        root = merkle.range_root(0, log.tiled, tree.node) if log.tiled else merkle.EMPTY
        if log.tiled > log.size or (log.tiled == log.size and root != frontier.root()):
            yield f"{log.origin}: the tiles are those of another tree"
    except (SignerRefuses, TileMissing) as error:
        yield f"{log.origin}: {error}"


def answers_missing() -> int | None:
    """Answers of workers without a record, as of the last comparison; None before the first, or where its event is none
    any more."""
    with rls.platform_scope():
        told = Intake.objects.filter(tenant_id=None, type=EventType.LOG_RECONCILED.value).order_by("-id").first()
    try:
        return int(json.loads(bytes(told.event))["details"]["missing"]) if told is not None else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def rebuild_tiles(log: Log) -> None:
    """Write every tile of a log again, from its leaves."""
    with rls.platform_scope():
        size = Log.objects.get(pk=log.pk).size
        for start in range(0, size, PAGE):
            leaves = Leaf.objects.filter(log=log, index__gte=start, index__lt=min(start + PAGE, size)).order_by("index")
            sequencer.tiles(log).extend(start, [bytes(value) for value in leaves.values_list("hash", flat=True)])
        Log.objects.filter(pk=log.pk, tiled__lt=size).update(tiled=size)


def trust(log: Log, actor: ActorRef) -> Checkpoint:
    """Let the signer go on from what the database has: for a person who knows that the database is the right one.

    It is on record in the system log. Raises SignerRefuses where the signer remembers more than the database has.
    """
    memory = Memory.of_installation()
    with memory.lock(), rls.platform_scope():
        log = Log.objects.get(pk=log.pk)
        frontier = sequencer.frontier_of(log)
        checkpoint = Checkpoint(log.origin, log.size, frontier.root())
        last = memory.last(log.origin)
        if last is not None and last != checkpoint:
            raise SignerRefuses(
                f"{log.origin}: the signer remembers {last.size} events. What was signed cannot be unsaid: restore the"
                " database that has them"
            )
        record(
            Event(
                type=EventType.LOG_TRUSTED,
                tenant_id=None,
                actor=actor,
                resource=Resource("log", log.origin, checkpoint.root.hex()),
                details={"size": log.size},
            )
        )
        memory.keep(checkpoint)
    return checkpoint


def move(actor: ActorRef) -> int:
    """Take the cluster that the database was moved to for the log's: the era that begins. Raises SignerRefuses."""
    with Memory.of_installation().lock(), rls.platform_scope(), connection.cursor() as cursor:
        cursor.execute(sequencer.WAIT)
        return cluster.begin_era(actor)
