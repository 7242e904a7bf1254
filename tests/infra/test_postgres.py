"""The roles that infra/postgres makes, in a real PostgreSQL: what each may do, and what it may not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from infra.local import postgres
from kasbah.config.settings import database

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "infra/postgres/init/10-roles.sql"


def run_init(server: postgres.Postgres, secrets_folder: Path) -> subprocess.CompletedProcess[str]:
    """As the image's entrypoint does: psql, as the superuser, stopping at the first error."""
    return subprocess.run(
        [postgres.binary("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-f", INIT, server.url("postgres", "postgres")],
        env={**os.environ, "KASBAH_SECRETS_DIR": str(secrets_folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    """A new cluster with the production settings file, except what would use the machine's network and memory."""
    server = postgres.prepare(
        tmp_path_factory.mktemp("pg"),
        settings={
            "config_file": str(ROOT / "infra/postgres/postgresql.conf"),
            "fsync": "off",
        },
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def made(server: postgres.Postgres, secrets_folder: Path) -> postgres.Postgres:
    """The cluster after the init script, with the passwords of the folder of secrets."""
    done = run_init(server, secrets_folder)
    assert done.returncode == 0, done.stderr
    return server


def connect(server: postgres.Postgres, secrets_folder: Path, role: str, name: str) -> psycopg.Connection:
    """As a container does, except for the address: this server listens on a socket."""
    files = {"kasbah_owner": "database_owner_password", "kasbah_app": "database_app_password"}
    password = (secrets_folder / files.get(role, "keycloak_database_password")).read_text()
    return psycopg.connect(
        f"postgresql://{role}:{quote(password)}@/{name}?host={server.socket_folder}", autocommit=True
    )


@pytest.mark.parametrize("role", ["kasbah_owner", "kasbah_app", "keycloak"])
def test_no_role_stands_above_row_level_security(made: postgres.Postgres, secrets_folder: Path, role: str) -> None:
    name = "keycloak" if role == "keycloak" else "kasbah"
    with connect(made, secrets_folder, role, name) as connection:
        rights = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles"
            " WHERE rolname = current_user"
        ).fetchone()
    assert rights == (False,) * 5


def test_the_owner_makes_tables_and_the_application_does_not(made: postgres.Postgres, secrets_folder: Path) -> None:
    with connect(made, secrets_folder, "kasbah_owner", "kasbah") as connection:
        connection.execute("CREATE TABLE made_by_owner (id int)")
    with connect(made, secrets_folder, "kasbah_app", "kasbah") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE made_by_application (id int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("TRUNCATE made_by_owner")


@pytest.mark.parametrize(
    ("role", "name"), [("kasbah_app", "keycloak"), ("keycloak", "kasbah"), ("kasbah_app", "postgres")]
)
def test_nobody_enters_another_database(made: postgres.Postgres, secrets_folder: Path, role: str, name: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(made, secrets_folder, role, name)


def test_a_missing_password_stops_the_start(server: postgres.Postgres, tmp_path: Path) -> None:
    done = run_init(server, tmp_path)
    assert done.returncode != 0
    assert "make_secrets" in done.stderr


def test_the_settings_file_is_in_force(made: postgres.Postgres) -> None:
    with psycopg.connect(made.url("postgres", "postgres")) as connection:
        shown = dict(connection.execute("SELECT name, setting FROM pg_settings WHERE source = 'configuration file'"))
    assert shown["effective_cache_size"] == str(3 * 1024 * 1024 // 8)  # blocks of 8 kB
    assert shown["idle_in_transaction_session_timeout"] == "60000"


def test_the_urls_name_the_roles(secrets_folder: Path) -> None:
    application = database((secrets_folder / "database_url").read_text())
    owner = database((secrets_folder / "owner_database_url").read_text())
    assert (application["USER"], owner["USER"]) == ("kasbah_app", "kasbah_owner")
    assert application["NAME"] == owner["NAME"] == "kasbah"
    assert application["HOST"] == owner["HOST"] == "postgres"
    assert application["PASSWORD"] == (secrets_folder / "database_app_password").read_text()
