"""Keys of the control plane and of the sites as rows, with states; each site gets a new key."""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import migrations, models
from django.utils import timezone

import kasbah.common.ids
from inference_worker.contract.signing import key_id
from kasbah.common import schema, sealed

STATES = [("next", "next"), ("current", "current"), ("retired", "retired"), ("revoked", "revoked")]
FIELDS: list[tuple[str, models.Field[Any, Any]]] = [
    ("id", models.UUIDField(default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
    ("key_id", models.CharField(max_length=16, unique=True)),
    ("public_key", models.BinaryField(max_length=32)),
    ("private_key_sealed", models.BinaryField(default=b"")),
    ("state", models.CharField(choices=STATES, default="next", max_length=10)),
    ("created_at", models.DateTimeField(auto_now_add=True)),
    ("current_at", models.DateTimeField(null=True)),
    ("retired_at", models.DateTimeField(null=True)),
]


def new_keys(apps: Any, editor: Any) -> None:
    """What was sealed into the site's row opens there only, so sites that exist get a new key."""
    alias = editor.connection.alias
    for site in apps.get_model("residency", "Site").objects.using(alias).all():
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        row = apps.get_model("residency", "SiteKey")(site=site, key_id=key_id(public), public_key=public)
        row.state, row.current_at = "current", timezone.now()
        place = {"table": "residency_sitekey", "row": row.id, "column": "private_key_sealed"}
        row.private_key_sealed = sealed.seal(private.private_bytes_raw(), **place)
        row.save(force_insert=True, using=alias)
        site.sealing_public_key = public
        site.save(update_fields=["sealing_public_key"], using=alias)


class Migration(migrations.Migration):
    dependencies = [("residency", "0005_policy_guards")]
    operations = [
        migrations.CreateModel(
            "SigningKey",
            fields=[(name, field.clone()) for name, field in FIELDS],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=["state"],
                        condition=models.Q(state__in=["next", "current"]),
                        name="one_signing_key_a_state",
                    )
                ]
            },
        ),
        migrations.CreateModel(
            "SiteKey",
            fields=[
                *((name, field.clone()) for name, field in FIELDS),
                (
                    "site",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="keys", to="residency.site"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=["site", "state"],
                        condition=models.Q(state__in=["next", "current"]),
                        name="one_site_key_a_state",
                    )
                ]
            },
        ),
        migrations.RemoveField("site", "sealing_private_key_sealed"),
        schema.Grant("residency_signingkey", "SELECT, INSERT, UPDATE"),
        schema.Grant("residency_sitekey", "SELECT, INSERT, UPDATE"),
        schema.NotifyChanges("residency_signingkey", "signing_key"),
        migrations.RunPython(new_keys, migrations.RunPython.noop),
    ]
