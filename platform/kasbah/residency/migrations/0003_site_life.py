"""Sites: a store of their own beside the broker, a state instead of a switch, and what housekeeping finds."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

STATES = [("active", "active"), ("cordoned", "cordoned"), ("drained", "drained")]
LIVES = [
    ("unknown", "not looked at yet"),
    ("empty", "no worker has joined"),
    ("live", "live"),
    ("lost", "lost: no worker is heard"),
    ("unreachable", "unreachable: its store or broker is away"),
]


# A site that was switched off takes no jobs afterwards either.
DRAIN_WHAT_WAS_OFF = "UPDATE residency_site SET state = 'drained' WHERE NOT active"
SWITCH_OFF_WHAT_TAKES_NONE = "UPDATE residency_site SET active = false WHERE state <> 'active'"


class Migration(migrations.Migration):
    dependencies = [("residency", "0002_guards")]
    operations = [
        migrations.AddField("site", "state", models.CharField(choices=STATES, default="active", max_length=10)),
        migrations.AddField("site", "store_url_sealed", models.BinaryField(blank=True, default=b"")),
        migrations.RunSQL(DRAIN_WHAT_WAS_OFF, SWITCH_OFF_WHAT_TAKES_NONE),
        migrations.RemoveField("site", "active"),
        migrations.CreateModel(
            "SiteHealth",
            [
                (
                    "site",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="health",
                        serialize=False,
                        to="residency.site",
                    ),
                ),
                ("life", models.CharField(choices=LIVES, default="unknown", max_length=12)),
                ("since", models.DateTimeField(null=True)),
                ("broker_state", models.CharField(blank=True, default="", max_length=60)),
                ("store_state", models.CharField(blank=True, default="", max_length=60)),
                ("checked_at", models.DateTimeField(null=True)),
                ("workers", models.PositiveIntegerField(default=0)),
                ("alive", models.PositiveIntegerField(default=0)),
                ("capacity", models.PositiveIntegerField(default=0)),
                ("running", models.PositiveIntegerField(default=0)),
            ],
        ),
    ]
