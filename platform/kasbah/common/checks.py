"""What must hold before the platform serves anyone: the database role is weak, its sessions have the settings that
statements rely on, and row-level security is forced.

`refuse_unsafe_role` asks the database itself, at the start of each server process. `tenant_tables_are_forced` is a
system check that reads the migrations, so it fails on the developer's machine already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import models
from django.db.migrations.loader import MigrationLoader

from kasbah.common.schema import ForceRowLevelSecurity
from kasbah.common.session_settings import differing, pinned


class UnsafeDatabase(RuntimeError):
    """The platform would not be safe on this database or in this role; the message says why and what to do."""


# Each finds a way around row-level security or the audit log. Own rights count, and those of roles one is member of.
QUESTIONS: tuple[tuple[LiteralString, str], ...] = (
    (
        "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolbypassrls) AND pg_has_role(session_user, oid, 'MEMBER')",
        "may act as {found}, which is a superuser or has BYPASSRLS: row-level security would not hold",
    ),
    (
        (
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND pg_has_role(session_user, relowner, 'MEMBER')"
        ),
        "owns the table {found}: an owner may switch row-level security off",
    ),
    (
        (
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
            " AND has_table_privilege(oid, 'TRUNCATE')"
        ),
        "may TRUNCATE {found}: row-level security does not hold for that",
    ),
    (
        (
            "SELECT relname FROM pg_class WHERE oid = to_regclass('public.audit_intake')"
            " AND (has_table_privilege(oid, 'UPDATE') OR has_table_privilege(oid, 'DELETE'))"
        ),
        "may change {found}: the audit log is insert-only",
    ),
    (
        "SELECT nspname FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege(oid, 'CREATE')",
        "may create objects in the schema {found}: they could take the place of others",
    ),
)
WAY_OUT = "Set KASBAH_DATABASE_URL to the application's role: NOSUPERUSER NOBYPASSRLS, owner of nothing."
RESET = (
    "Reset them as a superuser (ALTER ROLE ... RESET name, ALTER DATABASE ... RESET name), or in the environment "
    "(PGOPTIONS, PGTZ, PGDATESTYLE), and connect to the server itself: a pooler may drop what a session begins with."
)


def refuse_unsafe_role(dsn: str | None = None) -> None:
    """Raise UnsafeDatabase unless the role of `dsn` (settings.DATABASE_URL) is weak and every tenant table is guarded.

    To be called by each process before it serves: ASGI lifespan, Celery worker and beat.
    """
    try:
        url = pinned(dsn) if dsn else settings.DATABASE_URL
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            if found := differing(connection):
                raise UnsafeDatabase(f"The database's sessions begin with other settings: {'; '.join(found)}. {RESET}")
            for question, problem in QUESTIONS:
                if (row := connection.execute(question).fetchone()) is not None:
                    raise UnsafeDatabase(f"The database role {problem.format(found=row[0])}. {WAY_OUT}")
            for table in sorted(tenant_tables()):
                _refuse_unguarded(connection, table)
    except psycopg.OperationalError as error:
        raise UnsafeDatabase(f"The database cannot be reached, so it cannot be checked: {error}") from error


def _refuse_unguarded(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> None:
    row = connection.execute(
        "SELECT relrowsecurity AND relforcerowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = pg_class.oid)"
        " FROM pg_class WHERE oid = to_regclass(%s)",
        [f'public."{table}"'],
    ).fetchone()
    if row is None:
        raise UnsafeDatabase(f"The table {table} does not exist. Run: python manage.py migrate")
    if not row[0]:
        raise UnsafeDatabase(
            f"Row-level security is not forced on {table}, which holds tenants' rows. As its owner run: "
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
        )
    if row[1] != 1:
        raise UnsafeDatabase(
            f"{table} has {row[1]} row-level security policies instead of one; policies are joined by OR, so one too "
            "many opens the table. As its owner drop every policy but tenant_isolation."
        )


def tenant_tables() -> dict[str, str]:
    """Each table that holds rows of tenants, with the column that says whose."""
    return {
        model._meta.db_table: column
        for model in apps.get_models(include_auto_created=True)
        if (column := _tenant_column(model)) is not None
    }


def _tenant_column(model: type[models.Model]) -> str | None:
    if model._meta.label == "identity.Tenant":
        return "id"
    for field in model._meta.concrete_fields:
        if field.column == "tenant_id":
            return "tenant_id"
    return None


def register() -> None:
    """Called once by the composition's AppConfig."""
    checks.register(tenant_tables_are_forced, checks.Tags.models)


def tenant_tables_are_forced(**kwargs: object) -> list[checks.CheckMessage]:
    """Django system check: every model with a tenant has a migration that forces row-level security."""
    forced = set(_forced_by_migrations())
    return [
        checks.Error(
            f"{table} has the tenant column {column}, but no migration forces row-level security on it.",
            hint=f'Add schema.ForceRowLevelSecurity("{table}") to a migration.',
            id="kasbah.E001",
        )
        for table, column in sorted(tenant_tables().items())
        if (table, column) not in forced
    ]


def _forced_by_migrations() -> Iterator[tuple[str, str]]:
    loader = MigrationLoader(None)
    for migration in (loader.disk_migrations or {}).values():
        for operation in migration.operations:
            if isinstance(operation, ForceRowLevelSecurity):
                yield operation.table, operation.column
