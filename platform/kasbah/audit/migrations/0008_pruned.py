"""Which events were pruned: their bytes are gone from the intake, their leaves stay."""

from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0007_cosignature")]

    operations = [
        migrations.CreateModel(
            name="Pruned",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True)),
                ("start", models.PositiveBigIntegerField()),
                ("end", models.PositiveBigIntegerField()),
                ("event_id", models.UUIDField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "log",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="pruned", to="audit.log"
                    ),
                ),
            ],
            options={
                "db_table": "audit_pruned",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("start__lt", models.F("end"))), name="pruned_range_has_a_length"
                    ),
                    models.UniqueConstraint(fields=("log", "start"), name="one_pruned_range_a_start"),
                ],
            },
        ),
        schema.ForceRowLevelSecurity("audit_pruned"),
        schema.AddCommitOrder("audit_pruned"),
        schema.InsertOnly("audit_pruned"),
        schema.Grant("audit_pruned", "SELECT"),
    ]
