"""Guards of grants, jobs and idempotency keys; announcements."""

from __future__ import annotations

from django.db import migrations

from kasbah.common import schema


class Migration(migrations.Migration):
    dependencies = [("serving", "0001_initial"), ("identity", "0002_guards")]
    operations = [
        schema.ForceRowLevelSecurity("serving_deploymentgrant"),
        schema.ForceRowLevelSecurity("serving_job"),
        schema.ForceRowLevelSecurity("serving_idempotencykey"),
        schema.TenantForeignKey("serving_job", "project_id", "identity_project"),
        schema.TenantForeignKey("serving_job", "api_key_id", "identity_apikey"),
        schema.TenantForeignKey("serving_idempotencykey", "api_key_id", "identity_apikey"),
        schema.NotifyChanges("serving_deployment", "deployment"),
        schema.NotifyChanges("serving_deployment_sites", "deployment", "deployment_id"),
        schema.NotifyChanges("serving_deploymentgrant", "deployment", "deployment_id"),
        schema.NotifyChanges("serving_worker", "worker", columns=("site_id", "name", "state")),
    ]
