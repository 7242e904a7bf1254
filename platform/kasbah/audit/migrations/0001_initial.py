"""The intake of the audit log."""

from __future__ import annotations

from django.db import migrations, models

import kasbah.common.ids


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Intake",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True)),
                ("type", models.CharField(max_length=64)),
                ("request_id", models.CharField(blank=True, default="", max_length=64)),
                ("event", models.BinaryField()),
            ],
            options={
                "db_table": "audit_intake",
                "indexes": [
                    models.Index(fields=["tenant_id", "id"], name="audit_intake_tenant"),
                    models.Index(fields=["request_id"], name="audit_intake_request"),
                ],
            },
        ),
    ]
