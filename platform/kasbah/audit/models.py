"""The intake table: INSERT-only, in commit order, exact bytes (design: two steps, intake and sequencing)."""

from __future__ import annotations

from django.db import models

from kasbah.common.ids import uuid7


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
