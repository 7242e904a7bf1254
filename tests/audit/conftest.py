"""Fixtures of the log's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest


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
