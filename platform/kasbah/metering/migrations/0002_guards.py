"""Guards of usage and limits; announcements."""

from __future__ import annotations

from django.db import migrations

from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("metering", "0001_initial"), ("identity", "0002_guards")]
    operations = [
        schema.ForceRowLevelSecurity("metering_usage"),
        schema.ForceRowLevelSecurity("metering_limit"),
        schema.TenantForeignKey("metering_usage", "project_id", "identity_project"),
        schema.TenantForeignKey("metering_usage", "api_key_id", "identity_apikey"),
        schema.Grant("metering_usage", "SELECT, INSERT"),
        schema.NotifyChanges("metering_limit", "limit", "tenant_id"),
    ]
