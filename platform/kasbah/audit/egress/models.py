"""Refused connections, by process and destination."""

from __future__ import annotations

from django.db import models

from kasbah.common.ids import uuid7


class EgressAttempt(models.Model):
    """What one process was refused to one destination; `count` only grows. Of the platform: no tenant has it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    process = models.CharField(max_length=120)  # "serve@host", "worker <id>", "engine of worker <id>"
    destination = models.CharField(max_length=80)  # host:port, or name:dns for a look-up
    count = models.PositiveBigIntegerField(default=0)
    pending = models.PositiveBigIntegerField(default=0)  # of `count`, what no event has told of yet
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    told_at = models.DateTimeField(null=True)  # when an event last told of it

    class Meta:
        db_table = "audit_egressattempt"
        constraints = [models.UniqueConstraint(fields=["process", "destination"], name="one_attempt_a_destination")]
        indexes = [
            models.Index(fields=["told_at"], condition=models.Q(pending__gt=0), name="audit_egress_untold"),
        ]
