"""Whatever a role, the database or PGOPTIONS sets: statements mean the same, and what cannot be held is refused."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from psycopg import sql

from kasbah.audit import services as audit
from kasbah.audit.models import Intake
from kasbah.audit.services import intake
from kasbah.common import checks, rls
from kasbah.common.changes import ChangeListener
from kasbah.common.checks import UnsafeDatabase, refuse_unsafe_role
from kasbah.common.database import Database
from kasbah.common.session_settings import PINNED, pinned
from kasbah.identity.models import Tenant
from tests.audit.logs import WHO, run, verified

pytestmark = pytest.mark.django_db(transaction=True)
# A value of each that would change what statements mean, whom they serve, or end them.
HOSTILE = {
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Tokyo",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "xmloption": "document",
    "quote_all_identifiers": "on",
    "search_path": "pg_temp",
    "row_security": "off",
    "app.platform": "on",
    "app.tenant": "00000000-0000-0000-0000-000000000001",
    "gin_fuzzy_search_limit": "1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "exit_on_error": "on",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "1",
}
REFUSED = {
    "session_replication_role": "replica",
    "transaction_timeout": "10min",
    "restrict_nonsystem_relation_kind": "view",
}
NAME = "\u0000\\x41\\\\ 'quoted' é\ud7ff\U0001f600"


@contextmanager
def set_for(superuser: psycopg.Connection[Any], whom: str, settings: dict[str, str]) -> Iterator[None]:
    """`ALTER <whom> SET` of each, and the pools of this process empty, so that new sessions begin with them."""
    with ExitStack() as ended:
        for name, value in settings.items():
            alter = sql.SQL("ALTER " + whom + " {} {}")  # type: ignore[arg-type]
            quoted = sql.Identifier(*name.split("."))
            # what search_path holds is a list of names
            given = sql.SQL(value) if name == "search_path" else sql.Literal(value)  # type: ignore[arg-type]
            ended.callback(superuser.execute, alter.format(sql.SQL("RESET"), quoted))
            superuser.execute(alter.format(sql.SQL("SET"), sql.SQL("{} TO {}").format(quoted, given)))
        ended.callback(_empty_pools)
        _empty_pools()
        yield


def _empty_pools() -> None:
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]


def written(tenant: UUID) -> list[audit.Event]:
    """Events by every way in: the ORM's connection, one of its own, the asynchronous pool."""
    made = [event(tenant) for _ in range(4)]
    with rls.tenant_scope(tenant):
        audit.record(made[0])
    audit.record_apart(made[1])

    async def together() -> None:
        database = Database(size=1)
        await database.open()
        try:
            async with database.transaction(None) as session:
                await audit.insert(session, made[2:])
        finally:
            await database.close()

    asyncio.run(together())
    return made


def event(tenant: UUID) -> audit.Event:
    return audit.Event(type=audit.EventType.AUDIT_READ, tenant_id=tenant, actor=WHO, details={"name": NAME})


def stored(tenant: UUID) -> dict[UUID, bytes]:
    with rls.tenant_scope(tenant):
        return {row.pk: bytes(row.event) for row in Intake.objects.all()}


def sound(tenant: UUID, folder: Path) -> bool:
    """Whether check, an export and its verifier agree that the log is as it was signed."""
    out = io.StringIO()
    call_command("auditlog", "check", stdout=out, stderr=out)
    path = folder / "log.zip"
    with rls.platform_scope():
        slug = Tenant.objects.get(pk=tenant).slug
    call_command("auditexport", "--tenant", slug, "--output", str(path), stdout=out, stderr=out)
    return "holds" in verified(path, tenant)


def test_every_setting_is_tried() -> None:
    assert set(HOSTILE) == set(PINNED)
    assert not any(HOSTILE[name] == PINNED[name] for name in HOSTILE)


WHERE = ("ROLE kasbah_app", "DATABASE kasbah", "ROLE kasbah_app IN DATABASE kasbah")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("whom", WHERE[:2])
def test_a_setting_of_the_role_or_database_changes_nothing(
    name: str, whom: str, tenant: UUID, superuser: psycopg.Connection[Any]
) -> None:
    with set_for(superuser, whom, {name: HOSTILE[name]}):
        refuse_unsafe_role()
        made = written(tenant)
        assert stored(tenant) == {one.id: one.encoded for one in made}
        assert run() >= 4
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting(%s)", [name])
            assert cursor.fetchone() == (PINNED[name],)
        assert Intake.objects.count() == 0  # outside a scope there are no rows


@pytest.mark.parametrize("whom", WHERE)
def test_all_settings_together_change_nothing_and_the_log_holds(
    whom: str, tenant: UUID, superuser: psycopg.Connection[Any], tmp_path: Path
) -> None:
    with set_for(superuser, whom, HOSTILE):
        refuse_unsafe_role()
        made = written(tenant)
        run()
        assert stored(tenant) == {one.id: one.encoded for one in made}
        assert sound(tenant, tmp_path)
        assert asyncio.run(heard())


async def heard() -> bool:
    """Whether the listener hears and stays."""
    from django.conf import settings

    listener = ChangeListener(settings.DATABASE_URL)
    await listener.start()
    try:
        await asyncio.sleep(0.7)
        return listener.healthy
    finally:
        await listener.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_pgoptions_changes_nothing(name: str, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", f"-c {name}={HOSTILE[name].replace(' ', chr(92) + ' ')}")
    _empty_pools()
    refuse_unsafe_role()
    made = written(tenant)
    assert stored(tenant) == {one.id: one.encoded for one in made}


def test_options_of_the_url_come_first(app_url: str) -> None:
    url = pinned(f"{app_url}&options=-c%20work_mem%3D7MB%20-c%20row_security%3Doff")
    with psycopg.connect(url) as session:
        assert session.execute("SELECT current_setting('work_mem'), current_setting('row_security')").fetchone() == (
            "7MB",
            "on",
        )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pinned_is_refused_by_name(name: str, superuser: psycopg.Connection[Any]) -> None:
    with (
        set_for(superuser, "ROLE kasbah_app", {name: REFUSED[name]}),
        pytest.raises(UnsafeDatabase, match=f"{name} is .* RESET"),
    ):
        refuse_unsafe_role()
    refuse_unsafe_role()


def test_another_role_is_refused_by_name(superuser: psycopg.Connection[Any]) -> None:
    superuser.execute("CREATE ROLE other; GRANT other TO kasbah_app")
    try:
        with set_for(superuser, "ROLE kasbah_app", {"role": "other"}), pytest.raises(UnsafeDatabase, match="role is"):
            refuse_unsafe_role()
    finally:
        superuser.execute("DROP ROLE other")


@pytest.mark.parametrize(
    ("variable", "value", "named"), [("PGTZ", "Asia/Tokyo", "TimeZone"), ("PGDATESTYLE", "SQL", "DateStyle")]
)
def test_what_the_environment_sends_after_the_options_is_refused_by_name(
    variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UnsafeDatabase, match=f"{named} is"):
        refuse_unsafe_role()


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch, app_url: str) -> Iterator[None]:
    """The guard off: sessions begin as the role says."""
    from django.conf import settings

    assert pinned(app_url) == settings.DATABASE_URL
    monkeypatch.setattr(settings, "DATABASE_URL", app_url)
    monkeypatch.setattr(checks, "pinned", lambda url: url)
    monkeypatch.delitem(connection.settings_dict["OPTIONS"], "options")
    _empty_pools()
    yield
    monkeypatch.undo()
    _empty_pools()


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize("name", HOSTILE)
def test_without_the_pins_the_start_names_the_setting(name: str, superuser: psycopg.Connection[Any]) -> None:
    """The negative control of the first guard, and the test of the second."""
    value = "10min" if name.endswith("timeout") else HOSTILE[name]
    with (
        set_for(superuser, "ROLE kasbah_app", {name: value}),
        pytest.raises(UnsafeDatabase, match=f"{name} is .* and must be .* RESET"),
    ):
        refuse_unsafe_role()


@pytest.mark.usefixtures("unpinned")
def test_without_the_pins_other_bytes_are_refused_before_the_commit(
    tenant: UUID, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with that guard off too they are stored, and check says so."""

    async def together() -> None:
        database = Database(size=1)
        await database.open()
        try:
            async with database.transaction(None) as session:
                await audit.insert(session, [event(tenant)])
        finally:
            await database.close()

    with set_for(superuser, "ROLE kasbah_app", {"standard_conforming_strings": "off"}):
        # Lists of bytes go in binary, which no setting reads otherwise; as texts the server reads them by its settings.
        assert "%b::bytea[]" in intake.INSERT_MANY
        monkeypatch.setattr(intake, "INSERT_MANY", intake.INSERT_MANY.replace("%b", "%s"))
        with pytest.raises(intake.StoredOtherwise):
            asyncio.run(together())
        assert stored(tenant) == {}
        monkeypatch.setattr(intake, "_compare", lambda events, stored: None)
        asyncio.run(together())
        assert [data[:1] for data in stored(tenant).values()] != [b"{"]
    run()
    out = io.StringIO()
    with pytest.raises(Exception, match="event_not_canonical"):
        call_command("auditlog", "check", stdout=out, stderr=out)


@pytest.mark.usefixtures("unpinned")
def test_without_the_pins_a_setting_opens_every_tenants_rows(tenant: UUID, superuser: psycopg.Connection[Any]) -> None:
    written(tenant)
    with set_for(superuser, "ROLE kasbah_app", {"app.platform": "on"}):
        assert Intake.objects.count() > 0
