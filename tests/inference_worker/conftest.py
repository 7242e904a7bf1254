"""One Valkey for the folder's tests, emptied before each; workers and control plane are made by the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.local.valkey import Valkey, valkey
from tests.inference_worker.harness import ControlPlane, RunningWorker, start_worker


@pytest.fixture(scope="session")
def site_store_server() -> Iterator[Valkey]:
    """The site's broker and stream store."""
    with tempfile.TemporaryDirectory(prefix="ksb-") as home, valkey(Path(home), "site", aof=False) as server:
        yield server


@pytest.fixture
def site_url(site_store_server: Valkey) -> str:
    """Its URL; it is empty."""
    with redis.Redis.from_url(site_store_server.url) as client:
        client.flushall()
    return site_store_server.url


@pytest.fixture
def control(site_url: str) -> Iterator[ControlPlane]:
    """A control plane for the site."""
    with ControlPlane(site_url) as plane:
        yield plane


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty folder of models."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def worker(site_url: str, control: ControlPlane, models: Path, tmp_path: Path) -> Iterator[RunningWorker]:
    """An enrolled worker without an assignment."""
    arguments = ("--drain", "5", "--probe", "0.5", "--hung", "2")
    with start_worker(site_url, tmp_path / "w", token=control.token(), models=models, arguments=arguments) as running:
        assert running.id
        yield running
