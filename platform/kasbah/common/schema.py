"""Migration operations that PostgreSQL has and Django has not: row-level security, grants, triggers.

The owner's role runs them. The application's role (KASBAH_APP_ROLE, `kasbah_app` by default) owns nothing, may not
TRUNCATE, and gets on each table what the application does there and no more.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from kasbah.common import env

POLICY = (
    "(current_setting('app.platform', true) = 'on' OR {column} = nullif(current_setting('app.tenant', true), '')::uuid)"
)
WRITE = "SELECT, INSERT, UPDATE, DELETE"
CHANNEL = "kasbah_changed"


class RoleMissing(RuntimeError):
    """The application's role does not exist; the message says how to make it."""


def application_role() -> str:
    """Name of the role that the running application connects as."""
    return env.matching("APP_ROLE", "kasbah_app", r"[A-Za-z_][A-Za-z0-9_$-]{0,62}", "the name of a role of PostgreSQL")


class SqlOperation(Operation):
    """A migration operation that is SQL alone and changes no model state."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Nothing changes in Django's picture."""

    def forwards_sql(self) -> str:
        raise NotImplementedError

    def backwards_sql(self) -> str:
        raise NotImplementedError

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """Run the SQL."""
        schema_editor.execute(self.forwards_sql(), params=None)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """Undo it."""
        schema_editor.execute(self.backwards_sql(), params=None)


class ForceRowLevelSecurity(SqlOperation):
    """ENABLE and FORCE row-level security on `table`, with `column` holding the tenant.

    FORCE makes it hold for the owner of the table too. Rows whose tenant is null match no tenant: only the
    platform's scope sees and writes them.
    """

    def __init__(self, table: str, column: str = "tenant_id") -> None:
        self.table = table
        self.column = column

    def forwards_sql(self) -> str:
        policy = POLICY.format(column=self.column)
        return (
            f'ALTER TABLE "{self.table}" ENABLE ROW LEVEL SECURITY; '
            f'ALTER TABLE "{self.table}" FORCE ROW LEVEL SECURITY; '
            f'CREATE POLICY tenant_isolation ON "{self.table}" USING {policy} WITH CHECK {policy};'
        )

    def backwards_sql(self) -> str:
        return (
            f'DROP POLICY tenant_isolation ON "{self.table}"; '
            f'ALTER TABLE "{self.table}" NO FORCE ROW LEVEL SECURITY; '
            f'ALTER TABLE "{self.table}" DISABLE ROW LEVEL SECURITY;'
        )

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Force row-level security on {self.table}"


class TenantForeignKey(SqlOperation):
    """A composite foreign key (tenant, id): a row can point only at a row of its own tenant."""

    def __init__(self, table: str, column: str, parent: str) -> None:
        self.table = table
        self.column = column
        self.parent = parent

    def forwards_sql(self) -> str:
        return (
            f'CREATE UNIQUE INDEX IF NOT EXISTS "{self.parent}_tenant_id_id" ON "{self.parent}" (tenant_id, id); '
            f'ALTER TABLE "{self.table}" ADD CONSTRAINT "{self.table}_{self.column}_same_tenant" '
            f'FOREIGN KEY (tenant_id, "{self.column}") REFERENCES "{self.parent}" (tenant_id, id) '
            "DEFERRABLE INITIALLY DEFERRED;"
        )

    def backwards_sql(self) -> str:
        return f'ALTER TABLE "{self.table}" DROP CONSTRAINT "{self.table}_{self.column}_same_tenant";'

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Tie {self.table}.{self.column} to its own tenant"


class GrantApplication(SqlOperation):
    """Let the application's role use this schema: read and write rows of what is there and what comes, no more.

    Tables that need less say so with `Grant`. Raises RoleMissing.
    """

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """Run the SQL once the role is known to exist."""
        role = application_role()
        if not schema_editor.collect_sql:
            with schema_editor.connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
                if cursor.fetchone() is None:
                    raise RoleMissing(
                        f"The application's database role {role} does not exist. As a superuser of PostgreSQL run: "
                        f"CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '...'; "
                        "or set KASBAH_APP_ROLE to the role that KASBAH_DATABASE_URL names."
                    )
        super().database_forwards(app_label, schema_editor, from_state, to_state)

    def forwards_sql(self) -> str:
        role = quoted(application_role())
        return (
            f"GRANT USAGE ON SCHEMA public TO {role}; "
            f"GRANT {WRITE} ON ALL TABLES IN SCHEMA public TO {role}; "
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {WRITE} ON TABLES TO {role};"
        )

    def backwards_sql(self) -> str:
        role = quoted(application_role())
        return (
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM {role}; "
            f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role};"
        )

    def describe(self) -> str:
        """One line for the migration's log."""
        return "Let the application's role read and write rows"


class Grant(SqlOperation):
    """Replace what the application's role may do on `table` by `privileges`, such as "SELECT, INSERT"."""

    def __init__(self, table: str, privileges: str) -> None:
        self.table = table
        self.privileges = privileges

    def forwards_sql(self) -> str:
        role = quoted(application_role())
        return f'REVOKE ALL ON "{self.table}" FROM {role}; GRANT {self.privileges} ON "{self.table}" TO {role};'

    def backwards_sql(self) -> str:
        return f'GRANT {WRITE} ON "{self.table}" TO {quoted(application_role())};'

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Leave the application's role {self.privileges} on {self.table}"


class GrantExecute(SqlOperation):
    """Let the application's role call `function`, which runs as its owner: a name with the types of its arguments."""

    def __init__(self, function: str) -> None:
        self.function = function

    def forwards_sql(self) -> str:
        return f"GRANT EXECUTE ON FUNCTION {self.function} TO {quoted(application_role())};"

    def backwards_sql(self) -> str:
        return f"REVOKE EXECUTE ON FUNCTION {self.function} FROM {quoted(application_role())};"

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Let the application's role call {self.function}"


class CreateNotifyFunction(SqlOperation):
    """The trigger function that `NotifyChanges` uses: arguments are the topic and the column that names the row."""

    def forwards_sql(self) -> str:
        return f"""
            CREATE FUNCTION kasbah_notify_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
            BEGIN
                PERFORM pg_notify('{CHANNEL}', TG_ARGV[0] || ':' ||
                    (to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END) ->> TG_ARGV[1]));
                RETURN NULL;
            END $$;
        """

    def backwards_sql(self) -> str:
        return "DROP FUNCTION kasbah_notify_change();"

    def describe(self) -> str:
        """One line for the migration's log."""
        return "Create the function that announces changes"


class NotifyChanges(SqlOperation):
    """Announce each change of `table` on the channel kasbah_changed as `<topic>:<value of column>`, at commit.

    `columns`: announce an UPDATE only when it sets one of these (rows that also hold a counter or a heartbeat).
    PostgreSQL joins equal announcements of one transaction.
    """

    def __init__(self, table: str, topic: str, column: str = "id", columns: tuple[str, ...] = ()) -> None:
        self.table = table
        self.topic = topic
        self.column = column
        self.columns = columns

    def forwards_sql(self) -> str:
        update = "UPDATE" + (f" OF {', '.join(self.columns)}" if self.columns else "")
        return (
            f'CREATE TRIGGER kasbah_notify AFTER INSERT OR DELETE OR {update} ON "{self.table}" '
            f"FOR EACH ROW EXECUTE FUNCTION kasbah_notify_change('{self.topic}', '{self.column}');"
        )

    def backwards_sql(self) -> str:
        return f'DROP TRIGGER kasbah_notify ON "{self.table}";'

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Announce changes of {self.table} as {self.topic}"


class InsertOnly(SqlOperation):
    """A trigger that refuses UPDATE, DELETE and TRUNCATE of `table` to every role, its owner included.

    ENABLE ALWAYS: it fires under session_replication_role = replica too. Whoever may alter the table can still
    drop it; that such a change is seen is what the transparency log is for.
    """

    def __init__(self, table: str) -> None:
        self.table = table

    def forwards_sql(self) -> str:
        return f"""
            CREATE FUNCTION {self.table}_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
            BEGIN
                RAISE EXCEPTION '{self.table} is insert-only: % is refused', TG_OP
                    USING ERRCODE = 'insufficient_privilege';
            END $$;
            CREATE TRIGGER {self.table}_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON "{self.table}"
                FOR EACH STATEMENT EXECUTE FUNCTION {self.table}_refuse();
            ALTER TABLE "{self.table}" ENABLE ALWAYS TRIGGER {self.table}_insert_only;
        """

    def backwards_sql(self) -> str:
        return f'DROP TRIGGER {self.table}_insert_only ON "{self.table}"; DROP FUNCTION {self.table}_refuse();'

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Make {self.table} insert-only"


class AddCommitOrder(SqlOperation):
    """A column `xid`, the writing transaction's id (pg_current_xact_id), and the index (xid, id) to read by.

    Rows whose xid is below the oldest running transaction are complete: no commit can still slip in before them.
    """

    def __init__(self, table: str) -> None:
        self.table = table

    def forwards_sql(self) -> str:
        return (
            f'ALTER TABLE "{self.table}" ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id(); '
            f'CREATE INDEX {self.table}_commit_order ON "{self.table}" (xid, id);'
        )

    def backwards_sql(self) -> str:
        return f'ALTER TABLE "{self.table}" DROP COLUMN xid;'

    def describe(self) -> str:
        """One line for the migration's log."""
        return f"Keep the commit order of {self.table}"


def quoted(name: str) -> str:
    """An identifier for SQL, quoted."""
    return '"' + name.replace('"', '""') + '"'
