"""A database that is moved to another cluster, whose transaction ids begin anew: noticed, said, and gone on with."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from infra.local import postgres
from kasbah.audit.log import cluster, sequencer
from kasbah.audit.log.memory import Memory, SignerRefuses
from kasbah.audit.log.models import Cursor, Leaf
from kasbah.audit.models import Intake
from kasbah.audit.services import clusters
from kasbah.common import rls
from kasbah.common.checks import UnsafeDatabase
from kasbah.common.ids import uuid7
from kasbah.common.session_settings import pinned
from tests.audit.logs import run, write

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
# Transactions, so that the cursor stands beyond where a new cluster begins to count.
FAR = "DO $$ BEGIN FOR number IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    """A new cluster with both roles and the empty database."""
    with postgres.postgres(tmp_path_factory.mktemp("new"), settings={"fsync": "off"}) as server:
        yield server


def program(name: str, *arguments: str) -> None:
    done = subprocess.run([postgres.binary(name), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@contextmanager
def restored(source: postgres.Postgres, target: postgres.Postgres, folder: Path) -> Iterator[None]:
    """As an operator moves it: pg_dump, pg_restore into an empty database; then this process uses the new one."""
    dump = folder / "kasbah.dump"
    program("pg_dump", "--format=custom", f"--file={dump}", source.superuser_url)
    with psycopg.connect(target.url("postgres", "postgres"), autocommit=True) as session:
        session.execute("DROP DATABASE kasbah WITH (FORCE)")
    postgres.create_roles_and_database(target)
    program("pg_restore", "--exit-on-error", f"--dbname={target.superuser_url}", str(dump))
    with using(target):
        yield


@contextmanager
def using(server: postgres.Postgres) -> Iterator[None]:
    parts = urlsplit(server.app_url)
    there = {"HOST": dict(parse_qsl(parts.query))["host"], "PASSWORD": unquote(parts.password or "")}
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "DATABASE_URL", pinned(server.app_url))
        for name, value in there.items():
            patch.setitem(connection.settings_dict, name, value)
        yield
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]


@pytest.fixture
def moved(
    postgres_server: postgres.Postgres, other: postgres.Postgres, tenant: UUID, tmp_path: Path, superuser: Any
) -> Iterator[list[UUID]]:
    """A filled database, moved; the events of its tenant, of which the last three wait."""
    superuser.execute(FAR)
    made = write(tenant, 5)
    run()
    superuser.execute(FAR)
    made += write(tenant, 3)
    with restored(postgres_server, other, tmp_path):
        yield made


def status(origin: str) -> dict[str, str]:
    out = io.StringIO()
    call_command("auditlog", "status", "--log", origin, "--json", stdout=out)
    [shown] = json.loads(out.getvalue())
    return shown  # type: ignore[no-any-return]


def placed(tenant: UUID) -> list[UUID]:
    with rls.platform_scope():
        return list(Leaf.objects.filter(tenant_id=tenant).order_by("index").values_list("event_id", flat=True))


def test_a_moved_database_is_noticed_and_goes_on_once_somebody_vouches_for_it(
    moved: list[UUID], tenant: UUID, other: postgres.Postgres
) -> None:
    with pytest.raises(UnsafeDatabase, match=r"another PostgreSQL cluster.*auditlog moved"):
        clusters.refuse_other()
    with pytest.raises(SignerRefuses, match="auditlog moved"):
        sequencer.sequence()
    late = write(tenant, 2)  # by a process that did not look
    shown = status(f"test/audit/{tenant}")
    assert shown["waiting"] == 5
    assert shown["moved_to_another_cluster"] is True
    call_command("auditlog", "moved", stdout=io.StringIO())
    later = write(tenant, 2)
    run()
    assert sorted(placed(tenant)) == sorted([*moved, *late, *later])
    assert placed(tenant)[:5] == moved[:5]
    assert placed(tenant)[-2:] == later
    assert status(f"test/audit/{tenant}")["waiting"] == 0
    clusters.refuse_other()
    call_command("auditlog", "check", stdout=io.StringIO())
    with rls.platform_scope():
        told = Intake.objects.get(type="log.moved")
    assert b'"reason":"cluster"' in bytes(told.event)
    with pytest.raises(CommandError, match="nothing is to be done"):
        call_command("auditlog", "moved", stdout=io.StringIO())


@pytest.mark.parametrize(
    "process",
    [
        ["manage.py", "serve", "--port", "0"],
        ["-m", "uvicorn", "kasbah.config.asgi:application", "--port", "0"],
        ["-m", "celery", "-A", "kasbah.config.celery", "worker", "--pool", "solo"],
    ],
)
def test_no_process_starts_on_a_moved_database(
    moved: list[UUID], other: postgres.Postgres, valkey_server: Any, process: list[str], audit_folder: Path
) -> None:
    environment = {**os.environ, "KASBAH_DATABASE_URL": other.app_url, "KASBAH_AUDIT_DIR": str(audit_folder)}
    ended = subprocess.run(
        [sys.executable, *process], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    assert "auditlog moved" in ended.stderr


def test_without_the_guards_no_new_event_is_ever_placed_and_status_says_none_waits(
    moved: list[UUID], tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what was seen before there was an era."""
    monkeypatch.setattr(cluster.Place, "other", False)
    new = write(tenant, 2)
    run()
    assert not set(new) & set(placed(tenant))
    assert status(f"test/audit/{tenant}")["waiting"] in (0, 3)  # those from before the move, of an id beyond
    clusters.refuse_other()


def test_ids_that_begin_anew_are_noticed_in_a_cluster_of_the_same_name(
    moved: list[UUID], tenant: UUID, other: postgres.Postgres
) -> None:
    """`pg_resetwal`, or a log from before identities were kept."""
    with rls.platform_scope():
        Cursor.objects.update(system_identifier="", timeline=0)
    write(tenant)
    assert status(f"test/audit/{tenant}")["waiting"] == 4
    with pytest.raises(SignerRefuses, match="auditlog moved"):
        sequencer.sequence()


def test_check_finds_what_the_sequencer_has_gone_past(tenant: UUID, superuser: psycopg.Connection[Any]) -> None:
    """`pg_resetwal`, and ids that have come as far again before anybody looked."""
    write(tenant)
    run()
    run()  # the system log's of the tenant's checkpoint
    superuser.execute(
        "INSERT INTO audit_intake (id, tenant_id, type, event, request_id, xid) VALUES (%s, %s, 't', 'e', '', '3')",
        [uuid7(), tenant],
    )
    assert run() == 0
    with pytest.raises(CommandError, match="1 events have no place"):
        call_command("auditlog", "check", stdout=io.StringIO())


def test_an_older_database_is_not_taken(moved: list[UUID], tenant: UUID) -> None:
    memory = Memory.of_installation()
    last = memory.last(f"test/audit/{tenant}")
    assert last is not None
    memory.keep(type(last)(last.origin, 99, last.root))
    with pytest.raises(CommandError, match="older than the log"):
        call_command("auditlog", "moved", stdout=io.StringIO())


def test_a_standby_that_took_over_passes_where_it_has_all_that_was_signed(tenant: UUID) -> None:
    write(tenant, 3)
    run()
    with rls.platform_scope():
        Cursor.objects.update(timeline=7)
    clusters.refuse_other()
    write(tenant)
    run()
    run()
    with rls.platform_scope():
        assert Cursor.objects.get().timeline == 1
        told = Intake.objects.get(type="log.moved")
    assert b'"reason":"timeline"' in bytes(told.event)
    assert b'"timeline_before":7' in bytes(told.event)


def test_a_standby_that_lacks_what_was_signed_is_refused(tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tenant, 3)
    run()
    memory = Memory.of_installation()
    last = memory.last(f"test/audit/{tenant}")
    assert last is not None
    memory.keep(type(last)(last.origin, 4, last.root))
    with rls.platform_scope():
        Cursor.objects.update(timeline=7)
    with pytest.raises(UnsafeDatabase, match="older than the log"):
        clusters.refuse_other()
    with pytest.raises(SignerRefuses, match="older than the log"):
        sequencer.sequence()
    monkeypatch.setattr(cluster, "_refuse_older", lambda origin, size, place: None)  # the control
    clusters.refuse_other()
    sequencer.sequence()


def test_an_event_of_an_earlier_era_is_not_of_this_transaction(superuser: psycopg.Connection[Any]) -> None:
    """Guards that ask for an event "of this very transaction" ask for its era too."""
    for function in ("audit_contentkey_guard", "audit_prune", "audit_intake_prunable"):
        row = superuser.execute("SELECT pg_get_functiondef(%s::regproc)", [f"public.{function}"]).fetchone()
        assert row is not None
        events = row[0].count("told.xid = pg_current") + row[0].count("event.xid = pg_current")
        assert events == row[0].count(".era = public.audit_era()") == 1
