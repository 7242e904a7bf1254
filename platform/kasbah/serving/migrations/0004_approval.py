"""Workers wait for an approval; a token may say that none is needed."""

from __future__ import annotations

from django.db import migrations, models

STATES = [
    ("pending", "waits for approval"),
    ("enrolled", "enrolled"),
    ("cordoned", "cordoned"),
    ("drained", "drained"),
    ("lost", "lost"),
    ("revoked", "revoked"),
]


class Migration(migrations.Migration):
    dependencies = [("serving", "0003_job_ticket")]
    operations = [
        migrations.AlterField("worker", "state", models.CharField(choices=STATES, default="pending", max_length=10)),
        migrations.AddField("enrolmenttoken", "preapproved", models.BooleanField(default=False)),
    ]
