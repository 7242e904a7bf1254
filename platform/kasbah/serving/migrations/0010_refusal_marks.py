"""Refusals of one second that name no job are told apart."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("serving", "0009_erased_answers")]

    operations = [migrations.AddField("worker", "refusal_marks", models.JSONField(default=list))]
