"""What tests of exports out of the database share: one made in memory, taken apart, and checked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kasbah.audit.export.verifier import program
from kasbah.audit.services import exports
from kasbah.common import rls
from tests import factories


def done(wanted: exports.Wanted, folder: Path, actor: Any = factories.SYSTEM) -> bytes:
    """The bytes of an export."""
    file = io.BytesIO()
    assert wanted.tenant_id is not None
    with rls.tenant_scope(wanted.tenant_id):
        begun, choice, _ = exports.begin(folder / "work", wanted, actor)
        with closing(begun):
            exports.export(file, begun, choice, actor)
            begun.remove()
    return file.getvalue()


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes, UUID], str]:
    """What verify.py says, or the name of what fails."""

    def verified(data: bytes, tenant: UUID) -> str:
        (tmp_path / "checked.zip").write_bytes(data)
        key = exports.log_key(f"test/audit/{tenant}").vkey()
        status = program.main([str(tmp_path / "checked.zip"), "--key", key])
        said = capsys.readouterr()
        return said.out if status == 0 else said.err.partition(":")[0]

    return verified
