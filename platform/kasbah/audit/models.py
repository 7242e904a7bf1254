"""The intake table (INSERT-only, in commit order, exact bytes), the logs, and what is kept of content."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from kasbah.audit.asked import Asked
from kasbah.audit.egress.models import EgressAttempt
from kasbah.audit.forwarding.models import Forwarder, ForwarderPosition
from kasbah.audit.log.models import (
    Cosignature,
    Cursor,
    KeySuccession,
    Leaf,
    Log,
    Pruned,
    PruningPolicy,
    SequencerState,
    SignedCheckpoint,
)
from kasbah.common.ids import uuid7

__all__ = [
    "Content",
    "ContentKey",
    "Cosignature",
    "Cursor",
    "EgressAttempt",
    "Erasure",
    "ErasureBasis",
    "ErasureKind",
    "Forwarder",
    "ForwarderPosition",
    "Intake",
    "KeySuccession",
    "Leaf",
    "LegalHold",
    "Log",
    "Part",
    "Pruned",
    "PruningPolicy",
    "SequencerState",
    "SignedCheckpoint",
]


class Intake(models.Model):
    """One event as it was committed. `xid` orders commits; `event` holds the canonical bytes that are hashed.

    A trigger refuses UPDATE, DELETE and TRUNCATE for everyone, and the application's role has INSERT and SELECT only.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True)  # null: the system log. No foreign key: the log outlives what it tells of
    type = models.CharField(max_length=64)
    request_id = models.CharField(max_length=64, blank=True, default="")
    event = models.BinaryField()
    # xid xid8 DEFAULT pg_current_xact_id() is added by the migration; Django has no such type

    class Meta:
        db_table = "audit_intake"
        indexes = [
            models.Index(fields=["tenant_id", "id"], name="audit_intake_tenant"),
            models.Index(fields=["request_id"], name="audit_intake_request"),
        ]


class Part(models.TextChoices):
    """Which side of a request."""

    PROMPT = "prompt", _("prompt")
    ANSWER = "answer", _("answer")


class ContentKey(models.Model):
    """A tenant's data key of one month (UTC), wrapped by the key-encryption key.

    Everything that was sealed in the month hangs on it: with `wrapped` gone, all of it is gone.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    month = models.DateField()  # its first day
    wrapped = models.BinaryField(null=True)  # null: destroyed
    created_at = models.DateTimeField(db_default=Now())
    destroyed_at = models.DateTimeField(null=True)
    destroyed_event = models.UUIDField(null=True)  # a trigger asks for it, and for the erasure that it tells of

    class Meta:
        db_table = "audit_contentkey"
        constraints = [
            models.UniqueConstraint(
                fields=["tenant_id", "month"], condition=models.Q(destroyed_at=None), name="one_content_key_a_month"
            ),
            models.CheckConstraint(
                condition=models.Q(wrapped__isnull=False, destroyed_at=None)
                | models.Q(wrapped=None, destroyed_at__isnull=False),
                name="content_key_there_or_destroyed",
            ),
        ]


class Content(models.Model):
    """What is kept of one side of a request: the opening of its commitment, and with the level sealed its bytes.

    The commitment itself stands in the event `event_id`. Rows are never changed but by erasure, which leaves the row
    and takes `opening`, `record_key` and `ciphertext`; a trigger refuses everything else, and erasure under a hold.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    project_id = models.UUIDField()  # no foreign keys: this outlives what it tells of, as the log does
    key = models.ForeignKey(ContentKey, on_delete=models.PROTECT, db_constraint=False, related_name="+")
    request_id = models.CharField(max_length=64)
    event_id = models.UUIDField()
    part = models.CharField(max_length=10, choices=Part.choices)
    form = models.CharField(max_length=10)  # of the bytes that are committed to: see kasbah.audit.content.forms
    data_class = models.CharField(max_length=20)
    level = models.CharField(max_length=10)  # commitment | sealed
    policy = models.CharField(max_length=60)  # id@version that decided it
    ceiling_days = models.PositiveIntegerField(default=0)  # what that version promised; 0: nothing
    opening = models.BinaryField(null=True)  # the commitment's key, under the month's key
    record_key = models.BinaryField(null=True)  # under the month's key
    ciphertext = models.BinaryField(null=True)  # under the record's key
    created_at = models.DateTimeField(db_default=Now())
    erased_at = models.DateTimeField(null=True)
    erased_reason = models.CharField(max_length=40, blank=True, default="")
    erased_event = models.UUIDField(null=True)

    class Meta:
        db_table = "audit_content"
        constraints = [
            models.UniqueConstraint(fields=["tenant_id", "request_id", "part"], name="one_content_a_part"),
        ]
        indexes = [
            models.Index(
                fields=["tenant_id", "data_class", "created_at"],
                condition=models.Q(opening__isnull=False) | models.Q(ciphertext__isnull=False),
                name="audit_content_kept",
            ),
        ]


class LegalHold(models.Model):
    """What must not be erased, whatever the policy says: all that fits every condition which is given.

    Persons are pseudonymous ids, as in events. One person places it; releasing takes two.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    project_id = models.UUIDField(null=True, blank=True)
    data_class = models.CharField(max_length=20, blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")
    since = models.DateTimeField(null=True, blank=True)
    until = models.DateTimeField(null=True, blank=True)  # exclusive
    reason = models.CharField(max_length=500)
    reference = models.CharField(max_length=200)
    placed_by = models.UUIDField(null=True, blank=True)  # null: a key or a command; the event says which
    placed_at = models.DateTimeField(db_default=Now())
    release_requested_by = models.UUIDField(null=True, blank=True)
    release_requested_at = models.DateTimeField(null=True, blank=True)
    release_reason = models.CharField(max_length=500, blank=True, default="")
    released_by = models.UUIDField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "audit_legalhold"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(released_at=None, released_by=None)
                | (
                    models.Q(released_at__isnull=False, released_by__isnull=False)
                    & models.Q(release_requested_by__isnull=False)
                    & ~models.Q(released_by=models.F("release_requested_by"))
                ),
                name="hold_released_by_a_second_person",
            ),
            models.CheckConstraint(
                condition=models.Q(since=None) | models.Q(until=None) | models.Q(since__lt=models.F("until")),
                name="hold_period_has_a_length",
            ),
        ]
        indexes = [models.Index(fields=["tenant_id"], condition=models.Q(released_at=None), name="audit_hold_active")]


class ErasureKind(models.TextChoices):
    """What goes."""

    MONTH = "month", _("a month")  # with its key, all that was stored in it
    REQUEST = "request", _("a request")
    PERSON = "person", _("a person")  # all that he, or a key of his, asked for


class ErasureBasis(models.TextChoices):
    """Why it may go. What the law asks for goes before the policy's floor; nothing goes before a legal hold."""

    DATA_SUBJECT = "data_subject", _("request of a data subject")  # GDPR 17(1)
    AUTHORITY = "authority", _("order of an authority or a court")
    OWN_DECISION = "own_decision", _("own decision")


class Erasure(Asked):
    """Content that is to be erased before its time, and once it is approved, that was."""

    kind = models.CharField(max_length=10, choices=ErasureKind.choices)
    basis = models.CharField(max_length=20, choices=ErasureBasis.choices)
    month = models.DateField(null=True, blank=True)  # its first day
    request_id = models.CharField(max_length=64, blank=True, default="")
    person = models.UUIDField(null=True, blank=True)  # a user's id, or an API key's
    since = models.DateTimeField(null=True, blank=True)  # of a person: content that was stored from then on
    until = models.DateTimeField(null=True, blank=True)  # exclusive
    digest = models.CharField(max_length=64)  # of the records, as erasure.digest_of makes it: what was looked at
    records = models.PositiveIntegerField()

    class Meta(Asked.Meta):
        db_table = "audit_erasure"
        constraints = [
            *Asked.Meta.constraints,
            models.CheckConstraint(
                condition=models.Q(kind="month", month__isnull=False, request_id="", person=None)
                | models.Q(kind="request", month=None, person=None) & ~models.Q(request_id="")
                | models.Q(kind="person", month=None, request_id="", person__isnull=False, until__isnull=False),
                name="erasure_names_what_its_kind_says",
            ),
        ]
