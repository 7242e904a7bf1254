"""What witnesses vouched for."""

from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0006_egress")]

    operations = [
        migrations.CreateModel(
            name="Cosignature",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True)),
                ("witness", models.CharField(max_length=200)),
                ("line", models.TextField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "checkpoint",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="cosignatures",
                        to="audit.signedcheckpoint",
                    ),
                ),
            ],
            options={
                "db_table": "audit_cosignature",
                "constraints": [
                    models.UniqueConstraint(fields=("checkpoint", "witness"), name="one_cosignature_a_witness")
                ],
            },
        ),
        schema.ForceRowLevelSecurity("audit_cosignature"),
        schema.InsertOnly("audit_cosignature"),
        schema.Grant("audit_cosignature", "SELECT, INSERT"),
    ]
