"""The start refuses every database and role on which tenants would not be kept apart; each guard is tried broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.core.management import call_command
from django.db import models
from django.test.utils import isolate_apps
from psycopg import sql

from infra.local import postgres as local_postgres
from kasbah.common import checks
from kasbah.common.checks import UnsafeDatabase, refuse_unsafe_role

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_application_role_on_the_migrated_database_is_accepted(app_url: str) -> None:
    refuse_unsafe_role()
    refuse_unsafe_role(app_url)


def test_the_owner_and_the_superuser_are_refused(postgres_server: local_postgres.Postgres) -> None:
    with pytest.raises(UnsafeDatabase, match="owns the table"):
        refuse_unsafe_role(postgres_server.owner_url)
    with pytest.raises(UnsafeDatabase, match="superuser"):
        refuse_unsafe_role(postgres_server.superuser_url)


# What breaks it, what mends it, what is said.
BROKEN = [
    ("ALTER ROLE kasbah_app BYPASSRLS", "ALTER ROLE kasbah_app NOBYPASSRLS", "BYPASSRLS"),
    ("GRANT kasbah_owner TO kasbah_app", "REVOKE kasbah_owner FROM kasbah_app", "owns the table"),
    (
        "GRANT TRUNCATE ON serving_job TO kasbah_app",
        "REVOKE TRUNCATE ON serving_job FROM kasbah_app",
        "TRUNCATE serving_job",
    ),
    ("GRANT DELETE ON audit_intake TO kasbah_app", "REVOKE DELETE ON audit_intake FROM kasbah_app", "insert-only"),
    ("GRANT CREATE ON SCHEMA public TO kasbah_app", "REVOKE CREATE ON SCHEMA public FROM kasbah_app", "create objects"),
    (
        "ALTER TABLE serving_job NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE serving_job FORCE ROW LEVEL SECURITY",
        "not forced on serving_job",
    ),
    (
        "ALTER TABLE identity_tenant DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE identity_tenant ENABLE ROW LEVEL SECURITY",
        "not forced on identity_tenant",
    ),
    (
        "CREATE POLICY too_kind ON metering_usage USING (true)",
        "DROP POLICY too_kind ON metering_usage",
        "metering_usage has 2",
    ),
    ("ALTER TABLE metering_limit RENAME TO away", "ALTER TABLE away RENAME TO metering_limit", "manage.py migrate"),
]


@pytest.mark.parametrize(("breaks", "mends", "said"), BROKEN)
def test_each_weakness_is_refused(superuser: psycopg.Connection, breaks: str, mends: str, said: str) -> None:
    with _broken(superuser, breaks, mends), pytest.raises(UnsafeDatabase, match=said):
        refuse_unsafe_role()
    refuse_unsafe_role()


@contextmanager
def _broken(superuser: psycopg.Connection, breaks: str, mends: str) -> Iterator[None]:
    superuser.execute(sql.SQL(breaks))  # type: ignore[arg-type]
    try:
        yield
    finally:
        superuser.execute(sql.SQL(mends))  # type: ignore[arg-type]


def test_a_database_that_is_away_is_refused() -> None:
    with pytest.raises(UnsafeDatabase, match="cannot be reached"):
        refuse_unsafe_role("postgresql://127.0.0.1:1/kasbah?connect_timeout=2")


def test_the_models_and_migrations_as_they_are_pass() -> None:
    assert checks.tenant_tables_are_forced() == []
    assert len(checks.tenant_tables()) >= 18


def test_a_model_whose_migration_forgot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with isolate_apps("kasbah.identity"):

        class Forgotten(models.Model):
            tenant = models.ForeignKey("identity.Tenant", on_delete=models.PROTECT)

            class Meta:
                app_label = "identity"

        monkeypatch.setattr(checks.apps, "get_models", lambda **kwargs: [Forgotten])
        (message,) = checks.tenant_tables_are_forced()
    assert message.id == "kasbah.E001"
    assert "identity_forgotten" in message.msg


def test_no_migration_is_missing() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
