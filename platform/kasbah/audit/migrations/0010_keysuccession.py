"""Which key signs a log, and the notes by which one handed over to the next."""

from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0009_forwarding")]

    operations = [
        migrations.AddField("log", "key", models.CharField(default="", max_length=300)),
        migrations.CreateModel(
            name="KeySuccession",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True)),
                ("size", models.PositiveBigIntegerField()),
                ("old", models.CharField(max_length=300)),
                ("new", models.CharField(max_length=300)),
                ("note", models.TextField(blank=True, default="")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "log",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="successions", to="audit.log"
                    ),
                ),
            ],
            options={
                "db_table": "audit_keysuccession",
                "constraints": [models.UniqueConstraint(fields=("log", "new"), name="a_key_follows_once")],
            },
        ),
        schema.ForceRowLevelSecurity("audit_keysuccession"),
        schema.InsertOnly("audit_keysuccession"),
        schema.Grant("audit_keysuccession", "SELECT, INSERT"),
        schema.Grant("audit_log", "SELECT, INSERT, UPDATE (size, frontier, tiled, anchored, anchored_at, key)"),
    ]
