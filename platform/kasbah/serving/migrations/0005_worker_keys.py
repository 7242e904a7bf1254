"""What is sealed for a worker, which keys it has taken over, and the identity keys that it has replaced."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema

COLUMNS = ("site_id", "name", "state")


class Migration(migrations.Migration):
    dependencies = [("serving", "0004_approval")]
    operations = [
        migrations.AddField(
            "worker", "box_key", models.BinaryField(max_length=32, default=b""), preserve_default=False
        ),
        migrations.AddField("worker", "trusted_keys", models.JSONField(default=list)),
        migrations.AddField("worker", "held_keys", models.JSONField(default=list)),
        migrations.AddField("worker", "must_rotate", models.BooleanField(default=False)),
        # Nothing can be sealed for a worker that enrolled without a key for that: it enrols again.
        migrations.RunSQL("UPDATE serving_worker SET state = 'revoked'", migrations.RunSQL.noop),
        migrations.CreateModel(
            "FormerWorkerKey",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("public_key", models.BinaryField(max_length=32, unique=True)),
                ("valid_from", models.DateTimeField()),
                ("valid_until", models.DateTimeField()),
                (
                    "worker",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="former_keys", to="serving.worker"
                    ),
                ),
            ],
        ),
        schema.Grant("serving_formerworkerkey", "SELECT, INSERT"),
        schema.NotifyChanges("serving_formerworkerkey", "worker", "worker_id"),
    ]
