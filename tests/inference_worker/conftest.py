"""One Valkey for the folder's tests; workers and control plane are made by the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.valkey import Valkey, valkey
from tests.inference_worker.harness import ControlPlane, RunningWorker, Serving, start_worker

QUICK = ("--drain", "5", "--probe", "0.5", "--hung", "2")


@pytest.fixture(scope="session")
def site_store_server() -> Iterator[Valkey]:
    """The site's broker and stream store."""
    with tempfile.TemporaryDirectory(prefix="ksb-") as home, valkey(Path(home), "site", aof=False) as server:
        yield server


@pytest.fixture(scope="session")
def site_url(site_store_server: Valkey) -> str:
    """Its URL. Tests share it: every control plane has its own site, workers and deployments."""
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
    with start_worker(site_url, tmp_path / "w", token=control.token(), models=models, arguments=QUICK) as running:
        assert running.id
        yield running


@pytest.fixture(scope="module")
def serving(site_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A worker that serves one deployment, shared by the tests of a module: they may not harm it."""
    folder = tmp_path_factory.mktemp("serving")
    with (
        ControlPlane(site_url) as plane,
        start_worker(site_url, folder / "w", token=plane.token(), models=folder / "models", arguments=QUICK) as running,
    ):
        deployment = plane.deployment(folder / "models")
        plane.assign(running.id, deployment)
        running.await_ready()
        yield Serving(plane, running, deployment)
