"""Where events are forwarded to, and how far each log has got there."""

from __future__ import annotations

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0008_pruned"),
    ]

    operations = [
        migrations.CreateModel(
            name="Forwarder",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(blank=True, null=True)),
                (
                    "name",
                    models.CharField(
                        max_length=63,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[a-z0-9][a-z0-9-]{0,62}\\Z",
                                "Use lower-case letters, digits and hyphens, such as soc.",
                            )
                        ],
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("syslog_tls", "syslog over TLS (RFC 5424, 5425)"),
                            ("ocsf_https", "OCSF over HTTPS, one JSON object a line"),
                        ],
                        max_length=12,
                    ),
                ),
                ("address", models.CharField(max_length=500)),
                ("ca_certificate", models.TextField()),
                ("client_certificate", models.TextField(blank=True, default="")),
                ("client_key_sealed", models.BinaryField(blank=True, default=b"")),
                ("header_name", models.CharField(blank=True, default="", max_length=100)),
                ("header_value_sealed", models.BinaryField(blank=True, default=b"")),
                ("enabled", models.BooleanField(default=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("sent", models.PositiveBigIntegerField(default=0)),
                ("pruned", models.PositiveBigIntegerField(default=0)),
                ("failures", models.PositiveIntegerField(default=0)),
                ("retry_at", models.DateTimeField(blank=True, null=True)),
                ("last_error", models.CharField(blank=True, default="", max_length=500)),
                ("last_error_at", models.DateTimeField(blank=True, null=True)),
                ("last_success_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "db_table": "audit_forwarder",
            },
        ),
        migrations.CreateModel(
            name="ForwarderPosition",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField(null=True)),
                ("taken", models.PositiveBigIntegerField(default=0)),
                (
                    "forwarder",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="positions", to="audit.forwarder"
                    ),
                ),
                (
                    "log",
                    models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="+", to="audit.log"),
                ),
            ],
            options={
                "db_table": "audit_forwarderposition",
                "constraints": [models.UniqueConstraint(fields=("forwarder", "log"), name="one_position_a_log")],
            },
        ),
        schema.ForceRowLevelSecurity("audit_forwarder"),
        schema.ForceRowLevelSecurity("audit_forwarderposition"),
    ]
