"""An era beside the transaction id: a database that is moved to another cluster goes on with ids that begin anew."""

from __future__ import annotations

from django.db import migrations, models

from kasbah.common import schema

# The default of the column is the era that is now: new rows have it whoever writes them. Raising it waits for every
# transaction that has written a row, so that none of an earlier era can come after it.
ERA = """
ALTER TABLE audit_intake ADD COLUMN era integer NOT NULL DEFAULT 0;
CREATE INDEX audit_intake_era_order ON audit_intake (era, xid, id);
DROP INDEX audit_intake_commit_order;
CREATE FUNCTION audit_era() RETURNS integer LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT pg_get_expr(def.adbin, def.adrelid)::integer FROM pg_attrdef AS def
    JOIN pg_attribute AS att ON att.attrelid = def.adrelid AND att.attnum = def.adnum
    WHERE def.adrelid = 'public.audit_intake'::regclass AND att.attname = 'era'
$$;
CREATE FUNCTION audit_begin_era() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    following integer := public.audit_era() + 1;
BEGIN
    EXECUTE format('ALTER TABLE public.audit_intake ALTER COLUMN era SET DEFAULT %s', following);
    RETURN following;
END $$;
REVOKE ALL ON FUNCTION audit_begin_era() FROM PUBLIC;
"""
NO_ERA = """
DROP FUNCTION audit_begin_era();
DROP FUNCTION audit_era();
CREATE INDEX audit_intake_commit_order ON audit_intake (xid, id);
ALTER TABLE audit_intake DROP COLUMN era;
"""
# "In this very transaction" is said by its id: of another era that is some other transaction. And no backslash, whose
# meaning is a setting.
CHANGES = (
    ("audit_contentkey_guard", "told.xid = pg_current_xact_id()"),
    ("audit_prune", "event.xid = pg_current_xact_id()"),
    ("audit_intake_prunable", "told.xid = pg_current_xact_id()"),
)
ZERO, DECODED = "''\\x00''::bytea", "decode(''00'', ''hex'')"


def replaced(function: str, old: str, new: str) -> str:
    """SQL that puts `new` for `old` in the body of a function; both as SQL text. It fails where there is no `old`."""
    return f"""
        DO $do$
        DECLARE
            made text := pg_get_functiondef('public.{function}'::regproc);
        BEGIN
            IF strpos(made, '{old}') = 0 THEN
                RAISE EXCEPTION '{function} is not the function that this migration knows';
            END IF;
            EXECUTE replace(made, '{old}', '{new}');
        END $do$;
    """


def of_this_era(name: str, old: str) -> migrations.RunSQL:
    """Let `old`, a condition on xid, mean this era's."""
    new = f"{old} AND {old.partition('.')[0]}.era = public.audit_era()"
    return migrations.RunSQL(replaced(name, old, new), replaced(name, new, old))


class Migration(migrations.Migration):
    dependencies = [("audit", "0013_pruning")]

    operations = [
        migrations.RunSQL(ERA, NO_ERA),
        schema.GrantExecute("audit_begin_era()"),
        *(of_this_era(*change) for change in CHANGES),
        migrations.RunSQL(
            replaced("audit_intake_prunable", ZERO, DECODED), replaced("audit_intake_prunable", DECODED, ZERO)
        ),
        migrations.AddField("cursor", "era", models.PositiveIntegerField(db_default=0)),
        migrations.AddField("cursor", "system_identifier", models.CharField(max_length=20, db_default="")),
        migrations.AddField("cursor", "timeline", models.PositiveIntegerField(db_default=0)),
    ]
