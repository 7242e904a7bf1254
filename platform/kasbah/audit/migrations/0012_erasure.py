"""Erasure on demand, by two persons; keys that are destroyed and never replaced."""

from __future__ import annotations

import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema

# What is asked for stays as it was; the request goes on from `requested`, and what is approved can only end.
ASKED = """
CREATE FUNCTION audit_asked_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    life CONSTANT text[] := '{state, reviewed_by, reviewed_at, rejection, event_id}';
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION '%: % is refused; what was asked for and agreed to stays on record', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF to_jsonb(NEW) - life IS DISTINCT FROM to_jsonb(OLD) - life
       OR OLD.state <> 'requested' AND NOT (
           OLD.state = 'approved' AND NEW.state = 'ended'
           AND to_jsonb(NEW) - 'state'::text = to_jsonb(OLD) - 'state'::text
       ) THEN
        RAISE EXCEPTION '%: what is asked for is agreed to as it is, or not at all', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
"""
GUARDED = """
CREATE TRIGGER {table}_guard BEFORE UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION audit_asked_guard();
CREATE TRIGGER {table}_keep BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION audit_asked_guard();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_guard;
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_keep;
"""
# A key goes with the event that says so, by an erasure that a second person agreed to, and never under a hold.
KEY = """
CREATE FUNCTION audit_contentkey_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    life CONSTANT text[] := '{wrapped, destroyed_at, destroyed_event}';
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'audit_contentkey: % is refused; a key is destroyed, its row stays', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF to_jsonb(NEW) - life IS DISTINCT FROM to_jsonb(OLD) - life
       OR OLD.destroyed_at IS NOT NULL OR NEW.wrapped IS NOT NULL THEN
        RAISE EXCEPTION 'audit_contentkey: a key is destroyed or left as it is'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (
        SELECT FROM public.audit_erasure AS erasure
        JOIN public.audit_intake AS told ON told.id = erasure.event_id AND told.tenant_id = erasure.tenant_id
        WHERE erasure.tenant_id = NEW.tenant_id AND erasure.kind = 'month' AND erasure.month = NEW.month
        AND erasure.state = 'approved' AND erasure.event_id = NEW.destroyed_event
        AND told.type = 'content.erased' AND told.xid = pg_current_xact_id()
    ) THEN
        RAISE EXCEPTION 'audit_contentkey: no erasure of % was agreed to', NEW.month
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (
        SELECT FROM public.audit_content AS content JOIN public.audit_legalhold AS hold
        ON hold.tenant_id = content.tenant_id AND hold.released_at IS NULL
        AND (hold.project_id IS NULL OR hold.project_id = content.project_id)
        AND (hold.data_class = '' OR hold.data_class = content.data_class)
        AND (hold.request_id = '' OR hold.request_id = content.request_id)
        AND (hold.since IS NULL OR content.created_at >= hold.since)
        AND (hold.until IS NULL OR content.created_at < hold.until)
        WHERE content.tenant_id = NEW.tenant_id AND content.key_id = NEW.id
        AND (content.opening IS NOT NULL OR content.ciphertext IS NOT NULL)
    ) THEN
        RAISE EXCEPTION 'audit_contentkey: content of % is under a legal hold', NEW.month
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_contentkey_guard BEFORE UPDATE OR DELETE ON audit_contentkey
    FOR EACH ROW EXECUTE FUNCTION audit_contentkey_guard();
CREATE TRIGGER audit_contentkey_keep BEFORE TRUNCATE ON audit_contentkey
    FOR EACH STATEMENT EXECUTE FUNCTION audit_contentkey_guard();
ALTER TABLE audit_contentkey ENABLE ALWAYS TRIGGER audit_contentkey_guard;
ALTER TABLE audit_contentkey ENABLE ALWAYS TRIGGER audit_contentkey_keep;
"""
NO_KEY = """
DROP TRIGGER audit_contentkey_guard ON audit_contentkey;
DROP TRIGGER audit_contentkey_keep ON audit_contentkey;
DROP FUNCTION audit_contentkey_guard();
"""
# Retention erases by the policy; what says that it was asked for must have been.
SECOND = """
CREATE FUNCTION audit_content_asked() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM public.audit_erasure AS erasure
        WHERE erasure.tenant_id = NEW.tenant_id AND erasure.state = 'approved' AND erasure.event_id = NEW.erased_event
    ) THEN
        RAISE EXCEPTION 'audit_content: no erasure of % was agreed to', NEW.id USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_content_asked BEFORE UPDATE ON audit_content FOR EACH ROW
    WHEN (NEW.erased_reason = 'erasure_request') EXECUTE FUNCTION audit_content_asked();
ALTER TABLE audit_content ENABLE ALWAYS TRIGGER audit_content_asked;
"""
NO_SECOND = "DROP TRIGGER audit_content_asked ON audit_content; DROP FUNCTION audit_content_asked();"
LIFE = "state, reviewed_by, reviewed_at, rejection, event_id"


def guarded(table: str) -> migrations.RunSQL:
    """The triggers on what two persons decide."""
    undo = f"DROP TRIGGER {table}_guard ON {table}; DROP TRIGGER {table}_keep ON {table};"
    return migrations.RunSQL(GUARDED.format(table=table), undo)


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0011_sequencer"),
    ]

    operations = [
        migrations.AddField(
            model_name="contentkey",
            name="destroyed_event",
            field=models.UUIDField(null=True),
        ),
        migrations.CreateModel(
            name="Erasure",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=kasbah.common.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("tenant_id", models.UUIDField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("requested", "requested"),
                            ("approved", "approved"),
                            ("rejected", "rejected"),
                            ("withdrawn", "withdrawn"),
                            ("expired", "expired"),
                            ("ended", "ended"),
                        ],
                        default="requested",
                        max_length=10,
                    ),
                ),
                ("words", models.CharField(max_length=500)),
                ("requested_by", models.UUIDField()),
                ("requested_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("expires_at", models.DateTimeField()),
                ("reviewed_by", models.UUIDField(blank=True, null=True)),
                ("reviewed_at", models.DateTimeField(blank=True, null=True)),
                ("rejection", models.CharField(blank=True, default="", max_length=500)),
                ("event_id", models.UUIDField(blank=True, null=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[("month", "a month"), ("request", "a request"), ("person", "a person")], max_length=10
                    ),
                ),
                (
                    "basis",
                    models.CharField(
                        choices=[
                            ("data_subject", "request of a data subject"),
                            ("authority", "order of an authority or a court"),
                            ("own_decision", "own decision"),
                        ],
                        max_length=20,
                    ),
                ),
                ("month", models.DateField(blank=True, null=True)),
                ("request_id", models.CharField(blank=True, default="", max_length=64)),
                ("person", models.UUIDField(blank=True, null=True)),
                ("since", models.DateTimeField(blank=True, null=True)),
                ("until", models.DateTimeField(blank=True, null=True)),
                ("digest", models.CharField(max_length=64)),
                ("records", models.PositiveIntegerField()),
            ],
            options={
                "db_table": "audit_erasure",
                "abstract": False,
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("reviewed_by", None),
                            models.Q(("reviewed_by", models.F("requested_by")), _negated=True),
                            _connector="OR",
                        ),
                        name="erasure_reviewed_by_a_second_person",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("event_id", None),
                                ("reviewed_by", None),
                                ("state__in", ["requested", "withdrawn", "expired"]),
                            ),
                            models.Q(("event_id", None), ("reviewed_by__isnull", False), ("state", "rejected")),
                            models.Q(
                                ("event_id__isnull", False),
                                ("reviewed_by__isnull", False),
                                ("state__in", ["approved", "ended"]),
                            ),
                            _connector="OR",
                        ),
                        name="erasure_state_says_who_reviewed",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("kind", "month"), ("month__isnull", False), ("person", None), ("request_id", "")),
                            models.Q(
                                ("kind", "request"),
                                ("month", None),
                                ("person", None),
                                models.Q(("request_id", ""), _negated=True),
                            ),
                            models.Q(
                                ("kind", "person"),
                                ("month", None),
                                ("person__isnull", False),
                                ("request_id", ""),
                                ("until__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="erasure_names_what_its_kind_says",
                    ),
                ],
            },
        ),
        schema.ForceRowLevelSecurity("audit_erasure"),
        migrations.RunSQL(ASKED, "DROP FUNCTION audit_asked_guard();"),
        guarded("audit_erasure"),
        migrations.RunSQL(KEY, NO_KEY),
        migrations.RunSQL(SECOND, NO_SECOND),
        schema.Grant("audit_erasure", f"SELECT, INSERT, UPDATE ({LIFE})"),
        schema.Grant("audit_contentkey", "SELECT, INSERT, UPDATE (wrapped, destroyed_at, destroyed_event)"),
    ]
