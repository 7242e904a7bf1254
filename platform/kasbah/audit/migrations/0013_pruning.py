"""Pruning by a policy: what may go is one view, and one function removes it; nothing else removes an event."""

from __future__ import annotations

import django.db.models.functions.datetime
from django.db import migrations, models

import kasbah.common.ids
from kasbah.common import schema

# Age counts from the signature of a checkpoint that covers the event, which no clock of a web process can move. A hold
# of one request keeps its events; any other hold keeps all of its period. While anything is kept of a request's
# content its events stay, for they hold the commitments. The policy counts once its approval has a place in the log.
PRUNABLE = """
CREATE FUNCTION audit_first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
CREATE VIEW audit_prunable WITH (security_invoker = true) AS
SELECT policy.id AS policy_id, leaf.log_id, leaf.tenant_id, leaf.index, leaf.hash, leaf.event_id
FROM audit_pruningpolicy AS policy
JOIN audit_log AS log ON log.tenant_id = policy.tenant_id
JOIN audit_intake AS agreed ON agreed.id = policy.event_id AND agreed.tenant_id = policy.tenant_id
JOIN audit_leaf AS placed ON placed.event_id = agreed.id AND placed.log_id = log.id AND placed.index < log.tiled
JOIN audit_intake AS intake ON intake.tenant_id = policy.tenant_id
JOIN audit_leaf AS leaf ON leaf.event_id = intake.id AND leaf.log_id = log.id
WHERE policy.state = 'approved' AND policy.keep_days >= 183 AND agreed.type = 'pruning_policy.approved'
AND intake.type LIKE 'inference.%'
AND intake.id < audit_first_id(now() - make_interval(days => policy.keep_days) + interval '1 minute')
AND leaf.index < least(log.tiled, (
    SELECT coalesce(max(signed.size), 0) FROM audit_checkpoint AS signed
    WHERE signed.log_id = log.id AND signed.created_at <= now() - make_interval(days => policy.keep_days)
))
AND NOT EXISTS (
    SELECT FROM audit_legalhold AS hold WHERE hold.tenant_id = policy.tenant_id AND hold.released_at IS NULL
    AND (hold.request_id = '' OR hold.request_id = intake.request_id)
    AND (hold.since IS NULL OR intake.id >= audit_first_id(hold.since - interval '1 minute'))
    AND (hold.until IS NULL OR intake.id < audit_first_id(hold.until + interval '1 minute'))
)
AND NOT EXISTS (
    SELECT FROM audit_content AS content WHERE content.tenant_id = policy.tenant_id
    AND content.request_id = intake.request_id
    AND (content.opening IS NOT NULL OR content.ciphertext IS NOT NULL)
);
"""
PRUNE = """
CREATE FUNCTION audit_prune(pruned_log uuid, told uuid, starts bigint[], ends bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner uuid;
    wanted bigint;
    gone bigint;
BEGIN
    SELECT log.tenant_id INTO owner FROM public.audit_log AS log WHERE log.id = pruned_log;
    IF NOT EXISTS (
        SELECT FROM public.audit_intake AS event
        WHERE event.id = told AND event.tenant_id = owner AND event.type = 'log.pruned'
        AND event.xid = pg_current_xact_id()
        AND convert_from(event.event, 'UTF8')::jsonb #> '{details,ranges}' = (
            SELECT jsonb_agg(s || '-' || e ORDER BY number)
            FROM ROWS FROM (unnest(starts), unnest(ends)) WITH ORDINALITY AS u(s, e, number)
        )
    ) THEN
        RAISE EXCEPTION 'audit_prune: nothing in this transaction tells of it' USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO public.audit_pruned (id, tenant_id, log_id, start, "end", event_id)
        SELECT gen_random_uuid(), owner, pruned_log, s, e, told FROM unnest(starts, ends) AS u(s, e);
    SELECT sum(e - s) INTO wanted FROM unnest(starts, ends) AS u(s, e);
    DELETE FROM public.audit_intake AS intake USING public.audit_leaf AS leaf, unnest(starts, ends) AS u(s, e)
    WHERE leaf.log_id = pruned_log AND leaf.index >= u.s AND leaf.index < u.e AND intake.id = leaf.event_id;
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'audit_prune: of % events % are there', wanted, gone USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN gone;
END $$;
REVOKE ALL ON FUNCTION audit_prune(uuid, uuid, bigint[], bigint[]) FROM PUBLIC;
"""
# UPDATE and TRUNCATE are refused as before, and DELETE where this transaction notes nothing as pruned. What it notes
# goes row by row, and only what may go: whoever deletes, and whatever function he calls or does not call.
REFUSE = """
CREATE OR REPLACE FUNCTION audit_intake_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (
        SELECT FROM public.audit_pruned AS pruned WHERE pruned.xid = pg_current_xact_id()
    ) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'audit_intake is insert-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION audit_intake_prunable() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM public.audit_prunable AS may
        JOIN public.audit_pruned AS noted ON noted.log_id = may.log_id AND noted.xid = pg_current_xact_id()
            AND noted.start <= may.index AND noted."end" > may.index
        JOIN public.audit_intake AS told ON told.id = noted.event_id AND told.tenant_id = may.tenant_id
            AND told.type = 'log.pruned' AND told.xid = pg_current_xact_id()
        WHERE may.event_id = OLD.id AND may.hash = sha256('\\x00'::bytea || OLD.event)
    ) THEN
        RAISE EXCEPTION 'audit_intake is insert-only: event % may not go: it is too young, held, kept, not of '
            'inference, not as it was signed, or nothing says that it goes', OLD.id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER audit_intake_prunable BEFORE DELETE ON audit_intake
    FOR EACH ROW EXECUTE FUNCTION audit_intake_prunable();
ALTER TABLE audit_intake ENABLE ALWAYS TRIGGER audit_intake_prunable;
"""
NO_REFUSE = """
DROP TRIGGER audit_intake_prunable ON audit_intake;
DROP FUNCTION audit_intake_prunable();
CREATE OR REPLACE FUNCTION audit_intake_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'audit_intake is insert-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
"""
GUARDED = """
CREATE TRIGGER audit_pruningpolicy_guard BEFORE UPDATE OR DELETE ON audit_pruningpolicy
    FOR EACH ROW EXECUTE FUNCTION audit_asked_guard();
CREATE TRIGGER audit_pruningpolicy_keep BEFORE TRUNCATE ON audit_pruningpolicy
    FOR EACH STATEMENT EXECUTE FUNCTION audit_asked_guard();
ALTER TABLE audit_pruningpolicy ENABLE ALWAYS TRIGGER audit_pruningpolicy_guard;
ALTER TABLE audit_pruningpolicy ENABLE ALWAYS TRIGGER audit_pruningpolicy_keep;
"""
UNGUARDED = """
DROP TRIGGER audit_pruningpolicy_guard ON audit_pruningpolicy;
DROP TRIGGER audit_pruningpolicy_keep ON audit_pruningpolicy;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0012_erasure"),
    ]

    operations = [
        migrations.CreateModel(
            name="PruningPolicy",
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
                ("keep_days", models.PositiveIntegerField()),
            ],
            options={
                "db_table": "audit_pruningpolicy",
                "abstract": False,
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("reviewed_by", None),
                            models.Q(("reviewed_by", models.F("requested_by")), _negated=True),
                            _connector="OR",
                        ),
                        name="pruningpolicy_reviewed_by_a_second_person",
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
                        name="pruningpolicy_state_says_who_reviewed",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("keep_days__gte", 183)), name="pruning_keeps_six_months"
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("state", "approved")),
                        fields=("tenant_id",),
                        name="one_pruning_policy_in_force",
                    ),
                ],
            },
        ),
        schema.ForceRowLevelSecurity("audit_pruningpolicy"),
        migrations.RunSQL(GUARDED, UNGUARDED),
        migrations.RunSQL(PRUNABLE, "DROP VIEW audit_prunable; DROP FUNCTION audit_first_id(timestamptz);"),
        migrations.RunSQL(PRUNE, "DROP FUNCTION audit_prune(uuid, uuid, bigint[], bigint[]);"),
        migrations.RunSQL(REFUSE, NO_REFUSE),
        schema.Grant(
            "audit_pruningpolicy", "SELECT, INSERT, UPDATE (state, reviewed_by, reviewed_at, rejection, event_id)"
        ),
        schema.Grant("audit_prunable", "SELECT"),
        schema.GrantExecute("audit_prune(uuid, uuid, bigint[], bigint[])"),
    ]
