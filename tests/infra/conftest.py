"""What the tests of the container files share: the parsed files, and a folder of secrets as an installation has it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.containers import make_secrets

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def secrets_folder() -> Iterator[Path]:
    """As `make_secrets --self-signed kasbah.test` leaves it; a short path, for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ksb-sec-"))
    assert make_secrets.main(["--folder", str(folder), "--self-signed", "kasbah.test"]) == 0
    yield folder
    shutil.rmtree(folder)
