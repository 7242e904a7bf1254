"""A policy version's way from draft to active by two people, and the platform's baseline."""

from __future__ import annotations

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import kasbah.common.ids


class Migration(migrations.Migration):
    dependencies = [
        ("identity", "0003_tenant_default_data_class"),
        ("residency", "0003_site_life"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="BaselinePolicy",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("version", models.PositiveIntegerField()),
                ("document", models.JSONField()),
                ("source", models.TextField(blank=True, default="")),
                ("digest", models.CharField(max_length=64)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("draft", "draft"),
                            ("requested", "requested"),
                            ("approved", "approved"),
                            ("active", "active"),
                            ("superseded", "superseded"),
                            ("rejected", "rejected"),
                            ("withdrawn", "withdrawn"),
                            ("expired", "expired"),
                        ],
                        default="draft",
                        max_length=20,
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("findings", models.JSONField(default=list)),
                ("needs_approval", models.BooleanField(default=False)),
                ("compared_version", models.PositiveIntegerField(default=0)),
                ("compared_digest", models.CharField(blank=True, default="", max_length=64)),
                ("requested_at", models.DateTimeField(blank=True, null=True)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("activate_at", models.DateTimeField(blank=True, null=True)),
                ("reviewed_at", models.DateTimeField(blank=True, null=True)),
                ("reason", models.CharField(blank=True, default="", max_length=500)),
                ("bootstrap", models.BooleanField(default=False)),
                ("activated_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.AddField(
            model_name="policy",
            name="activate_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="policy",
            name="bootstrap",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="policy",
            name="compared_digest",
            field=models.CharField(blank=True, default="", max_length=64),
        ),
        migrations.AddField(
            model_name="policy",
            name="compared_version",
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="policy",
            name="digest",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="policy",
            name="expires_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="policy",
            name="findings",
            field=models.JSONField(default=list),
        ),
        migrations.AddField(
            model_name="policy",
            name="needs_approval",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="policy",
            name="reason",
            field=models.CharField(blank=True, default="", max_length=500),
        ),
        migrations.AddField(
            model_name="policy",
            name="requested_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="policy",
            name="requested_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="policy",
            name="reviewed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="policy",
            name="reviewed_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="policy",
            name="source",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AlterField(
            model_name="policy",
            name="state",
            field=models.CharField(
                choices=[
                    ("draft", "draft"),
                    ("requested", "requested"),
                    ("approved", "approved"),
                    ("active", "active"),
                    ("superseded", "superseded"),
                    ("rejected", "rejected"),
                    ("withdrawn", "withdrawn"),
                    ("expired", "expired"),
                ],
                default="draft",
                max_length=20,
            ),
        ),
        migrations.AddConstraint(
            model_name="policy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("reviewed_by__isnull", True),
                    ("requested_by__isnull", True),
                    models.Q(("requested_by", models.F("reviewed_by")), _negated=True),
                    _connector="OR",
                ),
                name="policy_reviewed_by_another_than_asked",
            ),
        ),
        migrations.AddConstraint(
            model_name="policy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("reviewed_by__isnull", True),
                    ("created_by__isnull", True),
                    models.Q(("created_by", models.F("reviewed_by")), _negated=True),
                    _connector="OR",
                ),
                name="policy_reviewed_by_another_than_wrote",
            ),
        ),
        migrations.AddConstraint(
            model_name="policy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("needs_approval", False),
                    ("bootstrap", True),
                    models.Q(("requested_by__isnull", False), ("reviewed_by__isnull", False)),
                    ("state__in", ["draft", "requested", "rejected", "withdrawn", "expired"]),
                    _connector="OR",
                ),
                name="policy_approved_where_needed",
            ),
        ),
        migrations.AddField(
            model_name="baselinepolicy",
            name="created_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="baselinepolicy",
            name="requested_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="baselinepolicy",
            name="reviewed_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.UniqueConstraint(fields=("version",), name="baseline_version_once"),
        ),
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state", "active")), fields=("state",), name="one_active_baseline"
            ),
        ),
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("reviewed_by__isnull", True),
                    ("requested_by__isnull", True),
                    models.Q(("requested_by", models.F("reviewed_by")), _negated=True),
                    _connector="OR",
                ),
                name="baseline_reviewed_by_another_than_asked",
            ),
        ),
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("reviewed_by__isnull", True),
                    ("created_by__isnull", True),
                    models.Q(("created_by", models.F("reviewed_by")), _negated=True),
                    _connector="OR",
                ),
                name="baseline_reviewed_by_another_than_wrote",
            ),
        ),
        migrations.AddConstraint(
            model_name="baselinepolicy",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("needs_approval", False),
                    ("bootstrap", True),
                    models.Q(("requested_by__isnull", False), ("reviewed_by__isnull", False)),
                    ("state__in", ["draft", "requested", "rejected", "withdrawn", "expired"]),
                    _connector="OR",
                ),
                name="baseline_approved_where_needed",
            ),
        ),
    ]
