"""What workers answered, beside what is on record."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("serving", "0006_worker_egress")]

    operations = [
        migrations.AddField("worker", "start", models.CharField(blank=True, default="", max_length=32)),
        migrations.AddField("worker", "answered", models.PositiveBigIntegerField(default=0)),
        migrations.CreateModel(
            name="Reconciliation",
            fields=[
                (
                    "worker",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="serving.worker",
                    ),
                ),
                ("start", models.CharField(max_length=32)),
                ("base", models.PositiveBigIntegerField()),
                ("answered", models.PositiveBigIntegerField()),
                ("said_at", models.DateTimeField()),
                ("recorded", models.PositiveBigIntegerField(default=0)),
                ("compared_to", models.DateTimeField()),
                ("missing", models.PositiveBigIntegerField(default=0)),
            ],
        ),
        schema.Grant("serving_reconciliation", "SELECT, INSERT, UPDATE"),
    ]
