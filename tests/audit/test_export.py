"""Exports out of the database, by the command, checked by the program that they bring."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command

from kasbah.audit.log import sequencer
from kasbah.audit.services import exports
from kasbah.common import rls
from kasbah.identity.models import Tenant
from tests import factories
from tests.audit.bundles import event
from tests.audit.logs import run, unguarded, verified, write

pytestmark = pytest.mark.django_db(transaction=True)


def slug_of(tenant: UUID) -> str:
    with rls.platform_scope():
        return str(Tenant.objects.get(pk=tenant).slug)


def test_a_tenants_export_holds_and_is_on_record(
    tenant: UUID, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tenant, 300)
    run()
    call_command("auditexport", "--tenant", slug_of(tenant), "--output", str(tmp_path / "all.zip"))
    assert "300" in capsys.readouterr().out
    assert "events     300 (0 to 300 of 300)" in verified(tmp_path / "all.zip", tenant)
    assert factories.events_of(tenant)[-1]["type"] == "audit.exported"
    call_command("auditexport", "--tenant", slug_of(tenant), "--output", str(tmp_path / "again.zip"))
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "all.zip").read_bytes()
    with pytest.raises(CommandError, match="exists already"):
        call_command("auditexport", "--tenant", slug_of(tenant), "--output", str(tmp_path / "all.zip"))


def test_a_period(tenant: UUID, tmp_path: Path) -> None:
    write(tenant, 5)
    run()
    middle = datetime.now(UTC) + timedelta(milliseconds=2)
    while datetime.now(UTC) < middle + timedelta(milliseconds=2):
        pass
    write(tenant, 7)
    run()
    name = slug_of(tenant)
    call_command("auditexport", "--tenant", name, "--from", middle.isoformat(), "--output", str(tmp_path / "late.zip"))
    assert "events     7 (5 to 12 of 12)" in verified(tmp_path / "late.zip", tenant)
    call_command("auditexport", "--tenant", name, "--to", middle.isoformat(), "--output", str(tmp_path / "early.zip"))
    assert "events     5 (0 to 5 of 12)" in verified(tmp_path / "early.zip", tenant)
    call_command("auditexport", "--tenant", name, "--from", "2100-01-01", "--output", str(tmp_path / "none.zip"))
    assert "events     0 (12 to 12 of 12)" in verified(tmp_path / "none.zip", tenant)


def test_the_system_log(tmp_path: Path) -> None:
    write(None, 3)
    run()
    call_command("auditexport", "--system", "--output", str(tmp_path / "system.zip"))
    assert "test/audit/system" in verified(tmp_path / "system.zip", None)


def test_what_was_changed_is_never_exported(tenant: UUID, tmp_path: Path, superuser: psycopg.Connection[Any]) -> None:
    events = write(tenant, 5)
    run()
    with unguarded(superuser) as execute:
        execute(
            "UPDATE audit_intake SET event = replace(encode(event, 'escape'), 'test', 'text')::bytea WHERE id = %s",
            [events[2]],
        )
    with pytest.raises(CommandError, match="not those that were signed"):
        call_command("auditexport", "--tenant", slug_of(tenant), "--output", str(tmp_path / "changed.zip"))
    assert list(tmp_path.glob("changed*")) == []


def test_before_the_first_event(tenant: UUID, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no signed event yet"):
        call_command("auditexport", "--tenant", slug_of(tenant), "--output", str(tmp_path / "none.zip"))
    assert list(tmp_path.glob("*.zip*")) == []


def test_memory_does_not_grow_with_the_log(tenant: UUID, tmp_path: Path, superuser: psycopg.Connection[Any]) -> None:
    """10,000 events more cost no more memory: they pass through page by page."""
    import tracemalloc

    def peak(count: int) -> int:
        superuser.execute(
            "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) SELECT gen_random_uuid(), %s, 'x', '',"
            " convert_to(replace(%s, 'NUMBER', n::text), 'UTF8') FROM generate_series(1, %s) AS n",
            [tenant, event(0, request_id="NUMBER").decode(), count],
        )
        run()
        with rls.tenant_scope(tenant):
            work, choice, _ = exports.begin(tmp_path / "large.part", exports.Wanted(tenant_id=tenant), factories.SYSTEM)
            with closing(work), (tmp_path / "large.zip").open("wb") as file:
                tracemalloc.start()
                exports.export(file, work, choice, factories.SYSTEM)
                _, most = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                work.remove()
        return most

    few = peak(3_000)
    many = peak(12_000)
    assert many < few + 2_000_000, (few, many)
    assert sequencer.folder().exists()
