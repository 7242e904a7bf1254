"""What one person asks for and another agrees to: the columns of such a row, and its life."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7


class AskedState(models.TextChoices):
    """How far it is. Only what is requested or approved goes on from there."""

    REQUESTED = "requested", _("requested")
    APPROVED = "approved", _("approved")
    REJECTED = "rejected", _("rejected")
    WITHDRAWN = "withdrawn", _("withdrawn")
    EXPIRED = "expired", _("expired")
    ENDED = "ended", _("ended")  # it was approved, and holds no more


class Asked(models.Model):
    """Persons are pseudonymous ids, as in events. What is asked for never changes: a trigger sees to it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField()
    state = models.CharField(max_length=10, choices=AskedState.choices, default=AskedState.REQUESTED)
    words = models.CharField(max_length=500)  # why it is asked for, in people's words: not in the log
    requested_by = models.UUIDField()
    requested_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    reviewed_by = models.UUIDField(null=True, blank=True)
    reviewed_at = models.DateTimeField(null=True, blank=True)
    rejection = models.CharField(max_length=500, blank=True, default="")
    event_id = models.UUIDField(null=True, blank=True)  # once approved: the event that tells what was done by it

    class Meta:
        abstract = True
        constraints = [
            models.CheckConstraint(
                condition=models.Q(reviewed_by=None) | ~models.Q(reviewed_by=models.F("requested_by")),
                name="%(class)s_reviewed_by_a_second_person",
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=["requested", "withdrawn", "expired"], reviewed_by=None, event_id=None)
                | models.Q(state="rejected", reviewed_by__isnull=False, event_id=None)
                | models.Q(state__in=["approved", "ended"], reviewed_by__isnull=False, event_id__isnull=False),
                name="%(class)s_state_says_who_reviewed",
            ),
        ]
