"""Guards of the versions: what one says is never changed, its digest least of all; announcements of the baseline."""

from __future__ import annotations

import hashlib
from typing import Any

from django.db import migrations

from inference_worker.contract import canonical
from kasbah.common import schema
from kasbah.common.rls import SET_PLATFORM

# All that a step of its life changes. Not the document, its source, its digest, its author.
LIFE = (
    "SELECT, INSERT, UPDATE (state, findings, needs_approval, compared_version, compared_digest, requested_by_id, "
    "requested_at, expires_at, activate_at, reviewed_by_id, reviewed_at, reason, bootstrap, activated_at)"
)


def digest(apps: Any, editor: Any) -> None:
    """Versions from before they had digests get theirs."""
    with editor.connection.cursor() as cursor:
        cursor.execute(SET_PLATFORM)  # forced row-level security shows the owner nothing either
    for policy in apps.get_model("residency", "Policy").objects.using(editor.connection.alias).filter(digest=""):
        policy.digest = hashlib.sha256(canonical.dumps(policy.document)).hexdigest()
        policy.save(update_fields=["digest"])


class Migration(migrations.Migration):
    dependencies = [("residency", "0004_policy_life")]
    operations = [
        migrations.RunPython(digest, migrations.RunPython.noop),
        schema.Grant("residency_policy", LIFE),
        schema.Grant("residency_baselinepolicy", LIFE),
        schema.NotifyChanges("residency_baselinepolicy", "baseline"),
    ]
