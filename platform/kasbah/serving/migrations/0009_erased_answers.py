"""Erasure reaches the answers that idempotency keys keep: in the database, whatever program erases, by any rule."""

from __future__ import annotations

from django.db import migrations, models

# Whoever may erase content sees the tenant's rows here too; the function has no more rights than its caller.
FORGET = """
CREATE FUNCTION serving_forget_answers() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    UPDATE public.serving_idempotencykey AS held SET response_sealed = NULL
    FROM public.serving_job AS job
    WHERE held.job_id = job.id AND held.response_sealed IS NOT NULL
    AND job.tenant_id = NEW.tenant_id AND job.request_id = NEW.request_id;
    RETURN NULL;
END $$;
CREATE TRIGGER serving_forget_answers AFTER UPDATE OF erased_at ON audit_content
    FOR EACH ROW EXECUTE FUNCTION serving_forget_answers();
ALTER TABLE audit_content ENABLE ALWAYS TRIGGER serving_forget_answers;

CREATE FUNCTION serving_forget_month() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    UPDATE public.serving_idempotencykey AS held SET response_sealed = NULL
    FROM public.serving_job AS job JOIN public.audit_content AS content
        ON content.tenant_id = job.tenant_id AND content.request_id = job.request_id
    WHERE held.job_id = job.id AND held.response_sealed IS NOT NULL
    AND held.tenant_id = NEW.tenant_id AND content.key_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER serving_forget_month AFTER UPDATE OF destroyed_at ON audit_contentkey
    FOR EACH ROW EXECUTE FUNCTION serving_forget_month();
ALTER TABLE audit_contentkey ENABLE ALWAYS TRIGGER serving_forget_month;
"""
REMEMBER = """
DROP TRIGGER serving_forget_answers ON audit_content;
DROP FUNCTION serving_forget_answers();
DROP TRIGGER serving_forget_month ON audit_contentkey;
DROP FUNCTION serving_forget_month();
"""


class Migration(migrations.Migration):
    dependencies = [("serving", "0008_troubles"), ("audit", "0013_pruning")]
    operations = [
        migrations.AddIndex(
            model_name="idempotencykey", index=models.Index(fields=["job_id"], name="idempotency_key_job")
        ),
        migrations.RunSQL(FORGET, REMEMBER),
    ]
