"""Whether the sequencer is at work."""

from __future__ import annotations

from django.db import migrations, models

from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("audit", "0010_keysuccession")]

    operations = [
        migrations.CreateModel(
            name="SequencerState",
            fields=[
                ("id", models.PositiveSmallIntegerField(primary_key=True, serialize=False)),
                ("seen_at", models.DateTimeField()),
                ("refused", models.BooleanField(default=False)),
            ],
            options={
                "db_table": "audit_sequencer",
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="one_sequencer")],
            },
        ),
        schema.Grant("audit_sequencer", "SELECT, INSERT, UPDATE"),
    ]
