"""What the migrations leave in the database: forced row-level security, least grants, references, no way round."""

from __future__ import annotations

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from psycopg import errors

from kasbah.common import rls, schema
from kasbah.common.checks import tenant_tables
from kasbah.common.ids import uuid7
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


def test_every_tenant_table_forces_row_level_security(owner: psycopg.Connection) -> None:
    rows = owner.execute("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity").fetchall()
    assert {name for (name,) in rows} == set(tenant_tables())


@pytest.mark.parametrize("table", sorted(tenant_tables()))
def test_without_a_scope_no_row_exists_for_anyone_but_a_superuser(
    table: str, owner: psycopg.Connection, superuser: psycopg.Connection
) -> None:
    home = factories.household()
    with rls.tenant_scope(home.tenant.id), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, 'x', '', '')",
            [uuid7(), home.tenant.id],
        )
    question = f'SELECT count(*) FROM "{table}"'  # noqa: S608 - from our own models
    with connection.cursor() as cursor:
        cursor.execute(question)
        assert cursor.fetchone() == (0,)
    assert owner.execute(question).fetchone() == (0,)  # type: ignore[arg-type]
    if table in {"identity_tenant", "identity_project", "identity_membership", "identity_apikey", "audit_intake"}:
        # The rows are there: what hides them is the policy.
        assert superuser.execute(question).fetchone() == (1,)  # type: ignore[arg-type]


def privileges(superuser: psycopg.Connection, table: str) -> set[str]:
    wanted = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    row = superuser.execute(
        "SELECT " + ", ".join(f"has_table_privilege('kasbah_app', '{table}', '{name}')" for name in wanted)  # type: ignore[arg-type]
    ).fetchone()
    assert row is not None
    return {name for name, has in zip(wanted, row, strict=True) if has}


def may_set(superuser: psycopg.Connection, table: str, column: str) -> bool:
    row = superuser.execute(f"SELECT has_column_privilege('kasbah_app', '{table}', '{column}', 'UPDATE')").fetchone()  # type: ignore[arg-type]
    return bool(row and row[0])


def test_grants_are_the_least(superuser: psycopg.Connection) -> None:
    write = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert privileges(superuser, "audit_intake") == {"SELECT", "INSERT"}
    assert privileges(superuser, "metering_usage") == {"SELECT", "INSERT"}
    for versions in ("residency_policy", "residency_baselinepolicy"):
        # What a version says is never changed, only its state: UPDATE is granted column by column.
        assert privileges(superuser, versions) == {"SELECT", "INSERT"}
        assert {name: may_set(superuser, versions, name) for name in ("state", "document", "digest", "version")} == {
            "state": True,
            "document": False,
            "digest": False,
            "version": False,
        }
    assert privileges(superuser, "django_migrations") == {"SELECT"}
    assert privileges(superuser, "django_content_type") == {"SELECT"}
    assert privileges(superuser, "serving_job") == privileges(superuser, "django_session") == write


def test_a_table_that_comes_later_is_granted_too(owner: psycopg.Connection, superuser: psycopg.Connection) -> None:
    owner.execute("CREATE TABLE later (id int)")
    try:
        assert privileges(superuser, "later") == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    finally:
        owner.execute("DROP TABLE later")


def test_a_row_cannot_point_into_another_tenant(app_url: str) -> None:
    mine, theirs = factories.household(), factories.household()
    statement = (
        "INSERT INTO metering_usage (id, deployment, endpoint, prompt_tokens, completion_tokens, exact, created_at,"
        " tenant_id, project_id, api_key_id) VALUES (%s, 'm', '/v1', 1, 1, true, now(), %s, %s, %s)"
    )
    with psycopg.connect(app_url) as app:
        app.execute(rls.SET_TENANT, [str(mine.tenant.id)])
        app.execute(statement, [uuid7(), mine.tenant.id, mine.project.id, mine.key.id])
        app.execute("SET CONSTRAINTS ALL IMMEDIATE")
        with pytest.raises(errors.ForeignKeyViolation, match="api_key_id_same_tenant"):
            app.execute(statement, [uuid7(), mine.tenant.id, mine.project.id, theirs.key.id])


def test_a_row_cannot_be_written_for_another_tenant() -> None:
    mine, theirs = factories.household(), factories.household()
    with pytest.raises(Exception, match="row-level security"), rls.tenant_scope(mine.tenant.id):
        factories.Project.objects.create(tenant=theirs.tenant, slug="stolen", name="x")
    with rls.tenant_scope(mine.tenant.id):
        assert factories.Project.objects.filter(tenant=theirs.tenant).update(name="x") == 0


@pytest.mark.parametrize("who", ["app", "owner", "superuser"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_intake SET type = 'x'", "DELETE FROM audit_intake", "TRUNCATE audit_intake"],
)
def test_the_intake_is_insert_only_for_every_role(
    who: str, statement: str, app_url: str, owner: psycopg.Connection, superuser: psycopg.Connection
) -> None:
    with psycopg.connect(app_url, autocommit=True) as app:
        role = {"app": app, "owner": owner, "superuser": superuser}[who]
        role.execute("SET app.platform = 'on'")
        with pytest.raises(errors.InsufficientPrivilege):
            role.execute(statement)  # type: ignore[arg-type]
    superuser.execute("SET session_replication_role = 'replica'")
    with pytest.raises(errors.InsufficientPrivilege, match="insert-only"):
        superuser.execute(statement)  # type: ignore[arg-type]


def test_the_intake_keeps_the_commit_order(superuser: psycopg.Connection) -> None:
    home = factories.household()
    for _ in range(2):
        with rls.tenant_scope(home.tenant.id), connection.cursor() as cursor:
            for _ in range(2):
                cursor.execute(
                    "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, 'x', '', '')",
                    [uuid7(), home.tenant.id],
                )
            cursor.execute("SELECT pg_current_xact_id()::text")
    transactions = superuser.execute(
        "SELECT xid::text, count(*) FROM audit_intake GROUP BY xid ORDER BY xid"
    ).fetchall()
    assert [count for _, count in transactions] == [2, 2]
    plan = superuser.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'audit_intake_era_order'").fetchone()
    assert plan is not None
    assert "(era, xid, id)" in plan[0]


def test_a_missing_application_role_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASBAH_APP_ROLE", "nobody_there")
    with pytest.raises(schema.RoleMissing, match="CREATE ROLE nobody_there"), connection.schema_editor() as editor:
        schema.GrantApplication().database_forwards("identity", editor, None, None)


def test_every_migration_can_be_shown_as_sql(capsys: pytest.CaptureFixture[str]) -> None:
    for app in ("audit", "identity", "metering", "residency", "serving"):
        call_command("sqlmigrate", app, "0002")
        assert "FORCE ROW LEVEL SECURITY" in capsys.readouterr().out
        call_command("sqlmigrate", app, "0002", backwards=True)
        assert "DROP POLICY" in capsys.readouterr().out
