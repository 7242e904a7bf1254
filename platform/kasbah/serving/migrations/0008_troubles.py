"""What is wrong with a worker, each of its starts, and which refusals were believed."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("serving", "0007_reconciliation")]

    operations = [
        migrations.AddField("worker", "clock_offset", models.BigIntegerField(default=0)),
        migrations.AddField("worker", "starts", models.JSONField(default=list)),
        migrations.AddField("worker", "troubles", models.JSONField(default=list)),
        migrations.AddField("worker", "refusal_time", models.PositiveBigIntegerField(default=0)),
        migrations.AddField("job", "refused_attempt", models.PositiveIntegerField(default=0, db_default=0)),
        migrations.AddField("job", "replayed_attempt", models.PositiveIntegerField(default=0, db_default=0)),
    ]
