"""A tenant's data class for requests that name none, and whose key and project name none either."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("identity", "0002_guards")]
    operations = [
        migrations.AddField(
            model_name="tenant",
            name="default_data_class",
            field=models.CharField(
                blank=True,
                choices=[
                    ("public", "public"),
                    ("internal", "internal"),
                    ("confidential", "confidential"),
                    ("secret", "secret"),
                ],
                default="",
                max_length=20,
            ),
        ),
    ]
