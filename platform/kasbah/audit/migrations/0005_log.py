"""The transparency log: logs, leaves, checkpoints, and how far the intake was sequenced."""

from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0004_content_guards")]

    operations = [
        migrations.CreateModel(
            name="Log",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True, unique=True)),
                ("origin", models.CharField(max_length=200, unique=True)),
                ("size", models.PositiveBigIntegerField(default=0)),
                ("frontier", models.BinaryField(default=b"")),
                ("tiled", models.PositiveBigIntegerField(default=0)),
                ("anchored", models.PositiveBigIntegerField(default=0)),
                ("anchored_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "audit_log"},
        ),
        migrations.CreateModel(
            name="Leaf",
            fields=[
                ("event_id", models.UUIDField(primary_key=True, serialize=False)),
                ("tenant_id", models.UUIDField(null=True)),
                ("index", models.PositiveBigIntegerField()),
                ("hash", models.BinaryField(max_length=32)),
                (
                    "log",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="leaves", to="audit.log"
                    ),
                ),
            ],
            options={
                "db_table": "audit_leaf",
                "constraints": [models.UniqueConstraint(fields=("log", "index"), name="one_leaf_an_index")],
            },
        ),
        migrations.CreateModel(
            name="SignedCheckpoint",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True)),
                ("size", models.PositiveBigIntegerField()),
                ("root", models.BinaryField(max_length=32)),
                ("note", models.TextField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "log",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="checkpoints", to="audit.log"
                    ),
                ),
            ],
            options={
                "db_table": "audit_checkpoint",
                "constraints": [models.UniqueConstraint(fields=("log", "size"), name="one_checkpoint_a_size")],
            },
        ),
        migrations.CreateModel(
            name="Cursor",
            fields=[
                ("id", models.PositiveSmallIntegerField(primary_key=True, serialize=False)),
                ("event_id", models.UUIDField()),
            ],
            options={
                "db_table": "audit_cursor",
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="one_cursor")],
            },
        ),
        migrations.RunSQL(
            "ALTER TABLE audit_cursor ADD COLUMN xid xid8 NOT NULL", "ALTER TABLE audit_cursor DROP COLUMN xid"
        ),
        schema.ForceRowLevelSecurity("audit_log"),
        schema.ForceRowLevelSecurity("audit_leaf"),
        schema.ForceRowLevelSecurity("audit_checkpoint"),
        schema.InsertOnly("audit_leaf"),
        schema.InsertOnly("audit_checkpoint"),
        schema.Grant("audit_log", "SELECT, INSERT, UPDATE (size, frontier, tiled, anchored, anchored_at)"),
        schema.Grant("audit_leaf", "SELECT, INSERT"),
        schema.Grant("audit_checkpoint", "SELECT, INSERT"),
        schema.Grant("audit_cursor", "SELECT, INSERT, UPDATE"),
    ]
