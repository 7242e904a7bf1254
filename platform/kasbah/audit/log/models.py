"""The logs, their leaves and their signed checkpoints; the sequencer alone writes them."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from kasbah.audit.asked import Asked
from kasbah.common.ids import uuid7


class Log(models.Model):
    """One transparency log: a tenant's, or with no tenant the system's. It only ever grows."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True, unique=True)
    origin = models.CharField(max_length=200, unique=True)
    size = models.PositiveBigIntegerField(default=0)
    frontier = models.BinaryField(default=b"")  # roots of the complete subtrees: all that appending needs
    tiled = models.PositiveBigIntegerField(default=0)  # leaves whose tiles are written
    anchored = models.PositiveBigIntegerField(default=0)  # size that the system log was told of
    anchored_at = models.DateTimeField(null=True)
    key = models.CharField(max_length=300, default="")  # vkey that signs it; "": not signed since that is noted

    class Meta:
        db_table = "audit_log"

    def proven(self) -> models.QuerySet[SignedCheckpoint]:
        """Its checkpoints whose tiles are written, so that proofs under them can be made; the newest first."""
        return self.checkpoints.filter(size__lte=self.tiled).order_by("-size")


class Leaf(models.Model):
    """One event's place in its log; `hash` is SHA-256(0x00 || event) (RFC 6962)."""

    event_id = models.UUIDField(primary_key=True)
    tenant_id = models.UUIDField(null=True)
    log = models.ForeignKey(Log, on_delete=models.PROTECT, related_name="leaves")
    index = models.PositiveBigIntegerField()
    hash = models.BinaryField(max_length=32)

    class Meta:
        db_table = "audit_leaf"
        constraints = [models.UniqueConstraint(fields=["log", "index"], name="one_leaf_an_index")]


class SignedCheckpoint(models.Model):
    """A checkpoint as it was signed: the whole note."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True)
    log = models.ForeignKey(Log, on_delete=models.PROTECT, related_name="checkpoints")
    size = models.PositiveBigIntegerField()
    root = models.BinaryField(max_length=32)
    note = models.TextField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_checkpoint"
        constraints = [models.UniqueConstraint(fields=["log", "size"], name="one_checkpoint_a_size")]


class KeySuccession(models.Model):
    """A log's key handed over to the next one: the note that both have signed (kasbah.audit.log.keys)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True)
    log = models.ForeignKey(Log, on_delete=models.PROTECT, related_name="successions")
    size = models.PositiveBigIntegerField()  # the last that the old key signed for
    old = models.CharField(max_length=300)  # vkeys
    new = models.CharField(max_length=300)
    note = models.TextField(blank=True, default="")  # "": the old key was revoked, and vouches for nothing
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_keysuccession"
        constraints = [models.UniqueConstraint(fields=["log", "new"], name="a_key_follows_once")]


class Cosignature(models.Model):
    """A witness's signature line on a checkpoint: it saw this very tree, grown from what it saw before."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True)
    checkpoint = models.ForeignKey(SignedCheckpoint, on_delete=models.PROTECT, related_name="cosignatures")
    witness = models.CharField(max_length=200)
    line = models.TextField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_cosignature"
        constraints = [models.UniqueConstraint(fields=["checkpoint", "witness"], name="one_cosignature_a_witness")]


LEAST_DAYS = 183  # six months: what the AI Act, articles 19 and 26(6), asks for at least


class PruningPolicy(Asked):
    """How long a tenant keeps the bytes of inference events; those that are older may be pruned."""

    keep_days = models.PositiveIntegerField()  # counted from when a checkpoint was signed that covers the event

    class Meta(Asked.Meta):
        db_table = "audit_pruningpolicy"
        constraints = [
            *Asked.Meta.constraints,
            models.CheckConstraint(condition=models.Q(keep_days__gte=LEAST_DAYS), name="pruning_keeps_six_months"),
            models.UniqueConstraint(
                fields=["tenant_id"], condition=models.Q(state="approved"), name="one_pruning_policy_in_force"
            ),
        ]


class Pruned(models.Model):
    """Events `start` to `end` (exclusive) of a log, whose bytes were removed from the intake by a signed policy.

    Their leaves stay. The event `event_id`, of type log.pruned, tells of it: its details have `ranges`, a list of
    "start-end" with `end` exclusive, one for each of its rows here; its resource's digest is SHA-256 over the leaf
    hashes of all of them in order. A trigger makes the table insert-only; `audit_prune` alone writes it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True)
    log = models.ForeignKey(Log, on_delete=models.PROTECT, related_name="pruned")
    start = models.PositiveBigIntegerField()
    end = models.PositiveBigIntegerField()
    event_id = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now())
    # xid xid8 DEFAULT pg_current_xact_id() is added by the migration; Django has no such type

    class Meta:
        db_table = "audit_pruned"
        constraints = [
            models.CheckConstraint(condition=models.Q(start__lt=models.F("end")), name="pruned_range_has_a_length"),
            models.UniqueConstraint(fields=["log", "start"], name="one_pruned_range_a_start"),
        ]


class SequencerState(models.Model):
    """Whether the sequencer is at work: one row."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    seen_at = models.DateTimeField()
    refused = models.BooleanField(default=False)  # the signer refuses

    class Meta:
        db_table = "audit_sequencer"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_sequencer")]


class Cursor(models.Model):
    """How far the intake was sequenced: one row. `xid` (xid8) is added by the migration; Django has no such type."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    event_id = models.UUIDField()
    era = models.PositiveIntegerField(db_default=0)
    system_identifier = models.CharField(max_length=20, db_default="")  # of the cluster that `xid` is of; "": unknown
    timeline = models.PositiveIntegerField(db_default=0)

    class Meta:
        db_table = "audit_cursor"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_cursor")]
