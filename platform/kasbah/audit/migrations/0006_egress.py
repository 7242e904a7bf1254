"""The ledger of egress; rows are added and counted up, never removed by the application."""

from __future__ import annotations

from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0005_log")]

    operations = [
        migrations.CreateModel(
            name="EgressAttempt",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("process", models.CharField(max_length=120)),
                ("destination", models.CharField(max_length=80)),
                ("count", models.PositiveBigIntegerField(default=0)),
                ("pending", models.PositiveBigIntegerField(default=0)),
                ("first_seen", models.DateTimeField()),
                ("last_seen", models.DateTimeField()),
                ("told_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "audit_egressattempt",
                "indexes": [
                    models.Index(condition=models.Q(("pending__gt", 0)), fields=["told_at"], name="audit_egress_untold")
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("process", "destination"), name="one_attempt_a_destination")
                ],
            },
        ),
        schema.Grant("audit_egressattempt", "SELECT, INSERT, UPDATE (count, pending, last_seen, told_at)"),
    ]
