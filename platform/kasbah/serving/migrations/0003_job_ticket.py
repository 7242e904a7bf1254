"""The ticket stays with its job, so that the receipt can be checked against it later."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("serving", "0002_guards")]
    operations = [
        migrations.AddField("job", "ticket", models.TextField(blank=True, default="")),
    ]
