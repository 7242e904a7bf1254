"""Exports that were cut off go on, and give the same bytes; and each shows that the log begins with an earlier one."""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from kasbah.audit.export import bundle, work
from kasbah.audit.services import exports
from kasbah.common import rls
from kasbah.common.errors import Conflict, Invalid
from tests import factories
from tests.audit.logs import run, write
from tests.audit.made import check, done, files_of

__all__ = ["check"]  # a fixture
pytestmark = pytest.mark.django_db(transaction=True)


class Cut(Exception):
    """The process ends here."""


def test_what_was_cut_off_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[bytes, UUID], str]
) -> None:
    monkeypatch.setattr(bundle, "SEGMENT", 40)
    tenant = factories.tenant().id
    write(tenant, 210)
    run()
    wanted = exports.Wanted(tenant_id=tenant)
    whole = done(wanted, tmp_path)
    write(tenant, 5)
    run()  # the log goes on meanwhile
    random.seed(7)
    for stop in sorted(random.sample(range(6, 210 + 6), 8)):
        file = io.BytesIO()

        def cut(at: int, of: int, stop: int = stop) -> None:
            if at >= stop * 2:
                raise Cut

        with rls.tenant_scope(tenant):
            begun, choice, _ = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
            with closing(begun), pytest.raises(Cut):
                exports.export(file, begun, choice, factories.SYSTEM, cut)
    assert sum(1 for _ in (tmp_path / "cut").glob("events.*")) == 6
    with rls.tenant_scope(tenant):
        begun, choice, same = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
        with closing(begun):
            assert (same, begun.events) == (True, 216)
            file = io.BytesIO()
            read: list[int] = []
            exports.export(file, begun, choice, factories.SYSTEM, lambda at, _: read.append(at))
    assert read[0] == 217  # nothing was read from the database again
    assert file.getvalue() == done(wanted, tmp_path)
    assert file.getvalue() != whole
    assert "events     216" in check(file.getvalue(), tenant)


def test_an_export_goes_on_under_the_checkpoint_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "SEGMENT", 40)
    tenant = factories.tenant().id
    write(tenant, 100)
    run()
    wanted = exports.Wanted(tenant_id=tenant)
    whole = done(wanted, tmp_path)

    def cut(at: int, _of: int) -> None:
        if at >= 80:
            raise Cut

    with rls.tenant_scope(tenant):
        begun, choice, _ = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
        with closing(begun), pytest.raises(Cut):
            exports.export(io.BytesIO(), begun, choice, factories.SYSTEM, cut)
    write(tenant, 30)
    run()
    with rls.tenant_scope(tenant):
        begun, choice, same = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
        with closing(begun):
            assert (same, begun.events) == (True, 80)
            with pytest.raises(Conflict, match="Another export writes"):
                exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
            exports.export(file := io.BytesIO(), begun, choice, factories.SYSTEM)
        assert file.getvalue() == whole
        until = exports.Wanted(tenant_id=tenant, until=choice.as_of.replace(year=2100))
        begun, _, same = exports.begin(tmp_path / "cut", until, factories.SYSTEM)
        begun.close()
        assert same  # the same events under the same checkpoint
        other = exports.Wanted(tenant_id=tenant, until=choice.as_of.replace(year=2000))
        begun, _, same = exports.begin(tmp_path / "cut", other, factories.SYSTEM)
        begun.close()
        assert (same, begun.events) == (False, 0)
        assert not list((tmp_path / "cut").glob("events.*"))


class Full(io.BytesIO):
    """A disk with room for so many bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 3_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def fileno(self) -> int:
        return 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bundle, "SEGMENT", 20)
    tenant = factories.tenant()
    write(tenant.id, 60)
    run()
    command = ["auditexport", "--tenant", tenant.slug, "--output", str(tmp_path / "full.zip")]
    real = work.Work.open
    with monkeypatch.context() as full:
        full.setattr(work.Work, "open", lambda self, path: Full() if path.name == "events.000002" else real(self, path))
        with pytest.raises(CommandError, match=r"No space left on device.*same command again"):
            call_command(*command)
    assert not (tmp_path / "full.zip").exists()
    assert not (tmp_path / "full.zip.part" / "export.zip").exists()
    call_command(*command)
    assert "Going on after 40 of 60 events" in capsys.readouterr().err
    call_command("auditexport", "--tenant", tenant.slug, "--output", str(tmp_path / "again.zip"))
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "full.zip").read_bytes()
    assert not (tmp_path / "full.zip.part").exists()


def test_a_segment_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    tenant = factories.tenant().id
    write(tenant, 10)
    run()
    with rls.tenant_scope(tenant):
        begun, choice, _ = exports.begin(tmp_path / "cut", exports.Wanted(tenant_id=tenant), factories.SYSTEM)
        with closing(begun):
            begun.add([b"forged"])
            assert choice.plan.events == 10
            with pytest.raises(exports.ExportBroken):
                exports.export(io.BytesIO(), begun, choice, factories.SYSTEM)
            begun.begin(choice.plan.digest(), str(choice.plan.checkpoint))
            exports.export(io.BytesIO(), begun, choice, factories.SYSTEM)
            (begun.folder / "events.000000").write_bytes(b"x\n")
            with pytest.raises(work.Damaged):
                exports.export(io.BytesIO(), begun, choice, factories.SYSTEM)


def test_an_earlier_checkpoint_comes_with_the_export(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    tenant = factories.tenant().id
    for count in (4, 3, 2):
        write(tenant, count)
        run()
    wanted = exports.Wanted(tenant_id=tenant)

    def previous(data: bytes) -> int:
        return int(files_of(data)["checkpoint.previous"].split(b"\n")[1])

    first = done(wanted, tmp_path)
    assert previous(first) == 7  # the one before
    assert "holds" in check(first, tenant)
    write(tenant, 5)
    run()
    write(tenant, 5)
    run()
    later = done(wanted, tmp_path)
    assert previous(later) == 9  # that of the last export
    assert "holds" in check(later, tenant)
    assert previous(done(exports.Wanted(tenant_id=tenant, since_size=4), tmp_path)) == 4
    with pytest.raises(Invalid) as refused:
        done(exports.Wanted(tenant_id=tenant, since_size=5), tmp_path)
    assert refused.value.param == "since_size"
    assert "4" in refused.value.message
