"""A site that is given up: it stays in the history, and nothing reaches for it any more."""

from __future__ import annotations

from django.db import migrations, models

STATES = [("active", "active"), ("cordoned", "cordoned"), ("drained", "drained"), ("retired", "retired")]


class Migration(migrations.Migration):
    dependencies = [("residency", "0009_site_troubles")]

    operations = [
        migrations.AlterField("site", "state", models.CharField(choices=STATES, default="active", max_length=10)),
    ]
