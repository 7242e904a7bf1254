"""Who stands behind whose account; invitations; keys of service accounts; a password that must be changed."""

from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema

# Keys that no person made are those of the installation's own programs. Forced row-level security shows the owner
# nothing without the platform's scope.
SERVICE_ACCOUNTS = """
SELECT set_config('app.tenant', '', true), set_config('app.platform', 'on', true);
UPDATE identity_apikey SET service_account = true WHERE created_by_id IS NULL;
SET CONSTRAINTS ALL IMMEDIATE;
"""
GUARD = """
CREATE FUNCTION identity_accountchange_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    life CONSTANT text[] := '{confirmed_by, confirmed_at}';
BEGIN
    IF TG_OP <> 'UPDATE' OR to_jsonb(NEW) - life IS DISTINCT FROM to_jsonb(OLD) - life
       OR OLD.confirmed_at IS NOT NULL OR NEW.confirmed_at IS NULL THEN
        RAISE EXCEPTION 'identity_accountchange: % is refused; who stands behind an account stays on record', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER identity_accountchange_guard BEFORE UPDATE OR DELETE ON identity_accountchange
    FOR EACH ROW EXECUTE FUNCTION identity_accountchange_guard();
CREATE TRIGGER identity_accountchange_keep BEFORE TRUNCATE ON identity_accountchange
    FOR EACH STATEMENT EXECUTE FUNCTION identity_accountchange_guard();
ALTER TABLE identity_accountchange ENABLE ALWAYS TRIGGER identity_accountchange_guard;
ALTER TABLE identity_accountchange ENABLE ALWAYS TRIGGER identity_accountchange_keep;
"""
NO_GUARD = """
DROP TRIGGER identity_accountchange_guard ON identity_accountchange;
DROP TRIGGER identity_accountchange_keep ON identity_accountchange;
DROP FUNCTION identity_accountchange_guard();
"""
NEVER = migrations.RunSQL.noop


class Migration(migrations.Migration):
    dependencies = [("identity", "0003_tenant_default_data_class")]
    operations = [
        migrations.CreateModel(
            name="AccountChange",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("user_id", models.UUIDField()),
                ("tenant_id", models.UUIDField(null=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("created", "created"),
                            ("password", "password set by another"),
                            ("activated", "switched on again"),
                            ("platform_role", "platform administrator or no longer"),
                            ("role", "role in a tenant"),
                        ],
                        max_length=20,
                    ),
                ),
                ("actor_kind", models.CharField(max_length=10)),
                ("actor_id", models.CharField(max_length=100)),
                ("changed_by", models.UUIDField(null=True)),
                ("changed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("confirmed_by", models.CharField(blank=True, default="", max_length=100)),
                ("confirmed_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Invitation",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("email", models.EmailField(max_length=254)),
                ("role", models.CharField(max_length=20)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "open"),
                            ("accepted", "accepted"),
                            ("withdrawn", "withdrawn"),
                            ("expired", "expired"),
                        ],
                        default="open",
                        max_length=10,
                    ),
                ),
                ("actor_kind", models.CharField(max_length=10)),
                ("actor_id", models.CharField(max_length=100)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("expires_at", models.DateTimeField()),
                ("answered_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.AddField(
            model_name="apikey",
            name="service_account",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="user",
            name="must_change_password",
            field=models.BooleanField(default=False),
        ),
        migrations.AddIndex(
            model_name="accountchange",
            index=models.Index(fields=["user_id", "changed_at"], name="account_change_of_user"),
        ),
        migrations.AddConstraint(
            model_name="accountchange",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("confirmed_at", None), ("confirmed_by", "")),
                    models.Q(("confirmed_at__isnull", False), models.Q(("confirmed_by", ""), _negated=True)),
                    _connector="OR",
                ),
                name="account_change_confirmed_by_somebody",
            ),
        ),
        migrations.AddField(
            model_name="invitation",
            name="tenant",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="invitations", to="identity.tenant"
            ),
        ),
        migrations.AddConstraint(
            model_name="invitation",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state", "open")), fields=("tenant", "email"), name="one_open_invitation_an_address"
            ),
        ),
        migrations.RunSQL(SERVICE_ACCOUNTS, NEVER),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(("service_account", True), ("created_by__isnull", False), _connector="OR"),
                name="api_key_has_a_maker_or_is_a_service_account",
            ),
        ),
        schema.ForceRowLevelSecurity("identity_invitation"),
        schema.ForceRowLevelSecurity("identity_accountchange"),
        migrations.RunSQL(GUARD, NO_GUARD),
        schema.Grant("identity_invitation", "SELECT, INSERT, UPDATE (state, answered_at)"),
        schema.Grant("identity_accountchange", "SELECT, INSERT, UPDATE (confirmed_by, confirmed_at)"),
    ]
