"""Zones of the organisation's network."""

from __future__ import annotations

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("residency", "0007_bootstrap_once")]

    operations = [
        migrations.AddField(
            model_name="site",
            name="zone",
            field=models.CharField(
                blank=True,
                default="",
                max_length=63,
                validators=[
                    django.core.validators.RegexValidator(
                        "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
                        "Use lower-case letters, digits and hyphens, at most 63, "
                        "beginning and ending with a letter or digit.",
                    )
                ],
            ),
        ),
    ]
