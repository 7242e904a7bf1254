"""Guards of the policies; announcements."""

from __future__ import annotations

from django.db import migrations

from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("residency", "0001_initial"), ("identity", "0002_guards")]
    operations = [
        schema.ForceRowLevelSecurity("residency_policy"),
        schema.Grant("residency_policy", "SELECT, INSERT, UPDATE"),
        schema.NotifyChanges("residency_site", "site"),
        schema.NotifyChanges("residency_policy", "policy", "tenant_id"),
    ]
