"""Guards of the identity tables: row-level security, one tenant along each reference, grants, announcements."""

from __future__ import annotations

from django.db import migrations

from kasbah.common import schema

# Not last_used_at: a use is no change.
KEY = ("tenant_id", "project_id", "scopes", "role", "default_data_class", "expires_at", "revoked_at", "digest")


class Migration(migrations.Migration):
    dependencies = [
        ("identity", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("sessions", "0001_initial"),
    ]
    operations = [
        schema.GrantApplication(),
        schema.CreateNotifyFunction(),
        schema.ForceRowLevelSecurity("identity_tenant", "id"),
        schema.ForceRowLevelSecurity("identity_project"),
        schema.ForceRowLevelSecurity("identity_membership"),
        schema.ForceRowLevelSecurity("identity_apikey"),
        schema.TenantForeignKey("identity_apikey", "project_id", "identity_project"),
        schema.Grant("django_migrations", "SELECT"),
        schema.Grant("django_content_type", "SELECT"),
        schema.Grant("auth_permission", "SELECT"),
        schema.Grant("auth_group", "SELECT"),
        schema.Grant("auth_group_permissions", "SELECT"),
        schema.NotifyChanges("identity_tenant", "tenant"),
        schema.NotifyChanges("identity_project", "project"),
        schema.NotifyChanges("identity_apikey", "key", columns=KEY),
    ]
