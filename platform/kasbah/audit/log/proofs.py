"""Proofs from the logs: where an event stands, and that a later log begins with an earlier one.

The caller's scope says whose rows exist. Proofs come from the tiles, so their cost does not grow with the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kasbah.audit.log import keys, merkle, sequencer
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Leaf, Log, SignedCheckpoint
from kasbah.audit.log.note import tlog_proof
from kasbah.audit.log.stored import LogAltered, read_checkpoint, read_successions
from kasbah.audit.log.tiles import TileMissing, TileTree
from kasbah.audit.models import Intake
from kasbah.audit.services.receipts import origin_of
from kasbah.common.errors import Invalid, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log is. `checkpoint` is the newest signed note, "" before the first; `key` a vkey (signed-note)."""

    origin: str
    key: str
    size: int
    checkpoint: str
    signed_at: datetime | None
    waiting: int  # events that are committed and have no place yet
    successions: tuple[str, ...] = ()  # notes by which its keys handed over, the oldest first


@dataclass(frozen=True, slots=True)
class Inclusion:
    """An event's place; `hashes` lead from its leaf to the checkpoint's root."""

    event: UUID
    index: int
    leaf: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        """As C2SP tlog-proof: the content of a `.tlog-proof` file."""
        return tlog_proof(self.index, self.hashes, self.checkpoint)


def head(tenant_id: UUID | None) -> Head:
    """How far the log of a tenant (None: the system) is. Raises LogAltered."""
    origin = origin_of(tenant_id)
    newest = _newest(tenant_id)
    signed = newest.size if newest else 0
    log = Log.objects.filter(tenant_id=tenant_id).first()
    placed = log.size if log else 0
    return Head(
        origin=origin,
        key=_key(origin),
        successions=tuple(read_successions(log)) if log else (),
        size=signed,
        checkpoint=newest.note if newest else "",
        signed_at=newest.created_at if newest else None,
        waiting=placed - signed + sequencer.unplaced(tenant_id),
    )


def inclusion(tenant_id: UUID | None, event_id: UUID) -> Inclusion:
    """The proof that an event stands in the log under the newest checkpoint.

    Raises NotFound, LogAltered, and Unavailable while the event waits for its place or the tiles cannot be read.
    """
    leaf = Leaf.objects.filter(tenant_id=tenant_id, event_id=event_id).first()
    newest = _newest(tenant_id)
    if leaf is None or newest is None or newest.size <= leaf.index:
        if Intake.objects.filter(tenant_id=tenant_id, pk=event_id).exists():
            raise Unavailable("The event has no place in the log yet; it gets one within a second.", retry_after=1)
        raise NotFound("There is no such event.")
    try:
        hashes = merkle.inclusion_proof(leaf.index, newest.size, _tree(newest).node)
    except TileMissing as error:
        raise tiles_unreadable(error) from error
    return Inclusion(event_id, leaf.index, bytes(leaf.hash), tuple(hashes), newest.note)


def first_inclusion(tenant_id: UUID | None, event_id: UUID) -> Inclusion | None:
    """The proof under the first checkpoint that holds the event, so that it is always the same; None: it has no place
    yet. A checkpoint of a key that was revoked proves nothing. Raises LogAltered, Unavailable."""
    leaf = Leaf.objects.filter(tenant_id=tenant_id, event_id=event_id).select_related("log").first()
    if leaf is None:
        return None
    revoked = leaf.log.successions.filter(note="").order_by("-created_at", "-id").first()
    after = max(leaf.index, revoked.size if revoked else 0)
    signed = leaf.log.proven().filter(size__gt=after).select_related("log").order_by("size").first()
    if signed is None:
        return None
    read_checkpoint(signed)
    try:
        hashes = merkle.inclusion_proof(leaf.index, signed.size, _tree(signed).node)
    except TileMissing as error:
        raise tiles_unreadable(error) from error
    return Inclusion(event_id, leaf.index, bytes(leaf.hash), tuple(hashes), signed.note)


def consistency(tenant_id: UUID | None, old: int, size: int) -> tuple[bytes, ...]:
    """What shows that the log of `size` begins with that of `old`. Raises Invalid, LogAltered, Unavailable."""
    newest = _newest(tenant_id)
    largest = newest.size if newest else 0
    if not 0 <= old <= size <= largest:
        raise Invalid(f"from and to are sizes of the log, the first not larger: 0 to {largest}.", param="from")
    if newest is None:
        return ()
    try:
        return tuple(merkle.consistency_proof(old, size, _tree(newest).node))
    except TileMissing as error:
        raise tiles_unreadable(error) from error


def _newest(tenant_id: UUID | None) -> SignedCheckpoint | None:
    """The newest checkpoint whose tiles are written. Raises LogAltered where it is not what was signed."""
    log = Log.objects.filter(tenant_id=tenant_id).first()
    newest = log.proven().select_related("log").first() if log is not None else None
    if newest is not None:
        read_checkpoint(newest)
    return newest


def _key(origin: str) -> str:
    try:
        return keys.log_key(origin).vkey()
    except SignerRefuses as error:
        raise LogAltered(str(error)) from error


def _tree(checkpoint: SignedCheckpoint) -> TileTree:
    return TileTree(checkpoint.log.tiled, sequencer.tiles(checkpoint.log).read)


def tiles_unreadable(error: TileMissing) -> Unavailable:
    """What is said of tiles that are lost."""
    return Unavailable(f"The log's tiles cannot be read here ({error}); look at KASBAH_AUDIT_DIR.", retry_after=5)
