"""Fixtures of the log's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.audit.receivers import Authority, SyslogReceiver


@pytest.fixture(autouse=True)
def audit_folder(tmp_path: Path, settings: Any) -> Path:
    """Tiles and memory of this test alone."""
    settings.AUDIT_DIR = str(tmp_path / "audit")
    return tmp_path / "audit"


@pytest.fixture
def tenant(transactional_db: None) -> UUID:
    """Whose log."""
    from tests import factories  # models cannot be imported before Django is set up

    return factories.tenant().id


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def receiver(authority: Authority) -> Iterator[SyslogReceiver]:
    made = SyslogReceiver(authority)
    yield made
    made.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and little patience."""
    from kasbah.audit.forwarding import sending

    monkeypatch.setattr(sending, "EVENTS", 20)
    monkeypatch.setattr(sending, "TIMEOUT", 1.0)
