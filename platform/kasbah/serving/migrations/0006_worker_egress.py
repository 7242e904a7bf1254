"""What a worker's guard refused: how often, and the latest destinations."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("serving", "0005_worker_keys")]

    operations = [
        migrations.AddField("worker", "egress_refused", models.PositiveBigIntegerField(default=0)),
        migrations.AddField("worker", "egress", models.JSONField(default=list)),
    ]
