"""What is kept of content, its keys, and legal holds."""

from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids


class Migration(migrations.Migration):
    dependencies = [("audit", "0002_guards")]

    operations = [
        migrations.CreateModel(
            name="ContentKey",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField()),
                ("month", models.DateField()),
                ("wrapped", models.BinaryField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("destroyed_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "audit_contentkey",
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("destroyed_at", None)),
                        fields=("tenant_id", "month"),
                        name="one_content_key_a_month",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("destroyed_at", None), ("wrapped__isnull", False)),
                            models.Q(("destroyed_at__isnull", False), ("wrapped", None)),
                            _connector="OR",
                        ),
                        name="content_key_there_or_destroyed",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="LegalHold",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField()),
                ("project_id", models.UUIDField(blank=True, null=True)),
                ("data_class", models.CharField(blank=True, default="", max_length=20)),
                ("request_id", models.CharField(blank=True, default="", max_length=64)),
                ("since", models.DateTimeField(blank=True, null=True)),
                ("until", models.DateTimeField(blank=True, null=True)),
                ("reason", models.CharField(max_length=500)),
                ("reference", models.CharField(max_length=200)),
                ("placed_by", models.UUIDField(blank=True, null=True)),
                ("placed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("release_requested_by", models.UUIDField(blank=True, null=True)),
                ("release_requested_at", models.DateTimeField(blank=True, null=True)),
                ("release_reason", models.CharField(blank=True, default="", max_length=500)),
                ("released_by", models.UUIDField(blank=True, null=True)),
                ("released_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "db_table": "audit_legalhold",
                "indexes": [
                    models.Index(
                        condition=models.Q(("released_at", None)), fields=["tenant_id"], name="audit_hold_active"
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("released_at", None), ("released_by", None)),
                            models.Q(
                                ("released_at__isnull", False),
                                ("released_by__isnull", False),
                                ("release_requested_by__isnull", False),
                                models.Q(("released_by", models.F("release_requested_by")), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="hold_released_by_a_second_person",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("since", None), ("until", None), ("since__lt", models.F("until")), _connector="OR"
                        ),
                        name="hold_period_has_a_length",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Content",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField()),
                ("project_id", models.UUIDField()),
                ("request_id", models.CharField(max_length=64)),
                ("event_id", models.UUIDField()),
                ("part", models.CharField(choices=[("prompt", "prompt"), ("answer", "answer")], max_length=10)),
                ("form", models.CharField(max_length=10)),
                ("data_class", models.CharField(max_length=20)),
                ("level", models.CharField(max_length=10)),
                ("policy", models.CharField(max_length=60)),
                ("ceiling_days", models.PositiveIntegerField(default=0)),
                ("opening", models.BinaryField(null=True)),
                ("record_key", models.BinaryField(null=True)),
                ("ciphertext", models.BinaryField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("erased_at", models.DateTimeField(null=True)),
                ("erased_reason", models.CharField(blank=True, default="", max_length=40)),
                ("erased_event", models.UUIDField(null=True)),
                (
                    "key",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="audit.contentkey",
                    ),
                ),
            ],
            options={
                "db_table": "audit_content",
                "indexes": [
                    models.Index(
                        condition=models.Q(("opening__isnull", False), ("ciphertext__isnull", False), _connector="OR"),
                        fields=["tenant_id", "data_class", "created_at"],
                        name="audit_content_kept",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("tenant_id", "request_id", "part"), name="one_content_a_part")
                ],
            },
        ),
    ]
