"""Guards of content: kept apart by tenant; changed by erasure alone, and never under a legal hold."""

from __future__ import annotations

from django.db import migrations

from kasbah.common import schema

# What an update may touch is taken away, never replaced; and whoever takes says when, why and in which event.
CONTENT = """
CREATE FUNCTION audit_content_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'audit_content: % is refused; content is erased, its row stays', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF ROW(NEW.id, NEW.tenant_id, NEW.project_id, NEW.key_id, NEW.request_id, NEW.event_id, NEW.part, NEW.form,
           NEW.data_class, NEW.level, NEW.policy, NEW.ceiling_days, NEW.created_at)
       IS DISTINCT FROM
       ROW(OLD.id, OLD.tenant_id, OLD.project_id, OLD.key_id, OLD.request_id, OLD.event_id, OLD.part, OLD.form,
           OLD.data_class, OLD.level, OLD.policy, OLD.ceiling_days, OLD.created_at)
       OR NEW.opening IS NOT NULL AND NEW.opening IS DISTINCT FROM OLD.opening
       OR NEW.record_key IS NOT NULL AND NEW.record_key IS DISTINCT FROM OLD.record_key
       OR NEW.ciphertext IS NOT NULL AND NEW.ciphertext IS DISTINCT FROM OLD.ciphertext
       OR (NEW.record_key IS NULL) <> (NEW.ciphertext IS NULL)
       OR NEW.erased_at IS NULL OR NEW.erased_event IS NULL OR NEW.erased_reason = '' THEN
        RAISE EXCEPTION 'audit_content: content is erased or left as it is, nothing else'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (
        SELECT FROM public.audit_legalhold AS hold
        WHERE hold.tenant_id = NEW.tenant_id AND hold.released_at IS NULL
        AND (hold.project_id IS NULL OR hold.project_id = NEW.project_id)
        AND (hold.data_class = '' OR hold.data_class = NEW.data_class)
        AND (hold.request_id = '' OR hold.request_id = NEW.request_id)
        AND (hold.since IS NULL OR NEW.created_at >= hold.since)
        AND (hold.until IS NULL OR NEW.created_at < hold.until)
    ) THEN
        RAISE EXCEPTION 'audit_content: % is under a legal hold', NEW.id USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_content_guard BEFORE UPDATE OR DELETE ON audit_content
    FOR EACH ROW EXECUTE FUNCTION audit_content_guard();
CREATE TRIGGER audit_content_keep BEFORE TRUNCATE ON audit_content
    FOR EACH STATEMENT EXECUTE FUNCTION audit_content_guard();
ALTER TABLE audit_content ENABLE ALWAYS TRIGGER audit_content_guard;
ALTER TABLE audit_content ENABLE ALWAYS TRIGGER audit_content_keep;
"""
NO_CONTENT = """
DROP TRIGGER audit_content_guard ON audit_content;
DROP TRIGGER audit_content_keep ON audit_content;
DROP FUNCTION audit_content_guard();
"""
HOLD = """
CREATE FUNCTION audit_legalhold_guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'audit_legalhold: % is refused; a hold is released, its row stays', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.released_at IS NOT NULL
       OR ROW(NEW.id, NEW.tenant_id, NEW.project_id, NEW.data_class, NEW.request_id, NEW.since, NEW.until, NEW.reason,
              NEW.reference, NEW.placed_by, NEW.placed_at)
          IS DISTINCT FROM
          ROW(OLD.id, OLD.tenant_id, OLD.project_id, OLD.data_class, OLD.request_id, OLD.since, OLD.until, OLD.reason,
              OLD.reference, OLD.placed_by, OLD.placed_at)
       OR NEW.released_at IS NOT NULL AND NEW.release_requested_by IS DISTINCT FROM OLD.release_requested_by THEN
        RAISE EXCEPTION 'audit_legalhold: a hold is released by a second person or left as it is'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_legalhold_guard BEFORE UPDATE OR DELETE ON audit_legalhold
    FOR EACH ROW EXECUTE FUNCTION audit_legalhold_guard();
CREATE TRIGGER audit_legalhold_keep BEFORE TRUNCATE ON audit_legalhold
    FOR EACH STATEMENT EXECUTE FUNCTION audit_legalhold_guard();
ALTER TABLE audit_legalhold ENABLE ALWAYS TRIGGER audit_legalhold_guard;
ALTER TABLE audit_legalhold ENABLE ALWAYS TRIGGER audit_legalhold_keep;
"""
NO_HOLD = """
DROP TRIGGER audit_legalhold_guard ON audit_legalhold;
DROP TRIGGER audit_legalhold_keep ON audit_legalhold;
DROP FUNCTION audit_legalhold_guard();
"""
ERASES = "opening, record_key, ciphertext, erased_at, erased_reason, erased_event"
RELEASES = "release_requested_by, release_requested_at, release_reason, released_by, released_at"


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_content")]
    operations = [
        schema.ForceRowLevelSecurity("audit_contentkey"),
        schema.ForceRowLevelSecurity("audit_content"),
        schema.ForceRowLevelSecurity("audit_legalhold"),
        schema.TenantForeignKey("audit_content", "key_id", "audit_contentkey"),
        migrations.RunSQL(CONTENT, NO_CONTENT),
        migrations.RunSQL(HOLD, NO_HOLD),
        schema.Grant("audit_contentkey", "SELECT, INSERT"),
        schema.Grant("audit_content", f"SELECT, INSERT, UPDATE ({ERASES})"),
        schema.Grant("audit_legalhold", f"SELECT, INSERT, UPDATE ({RELEASES})"),
    ]
