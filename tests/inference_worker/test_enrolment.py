"""A worker's first start, and its later ones."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from inference_worker.contract import enrolment
from inference_worker.contract.messages import Report, checked
from inference_worker.contract.signing import Purpose
from tests.inference_worker.harness import ControlPlane, start_worker, wait_for

pytestmark = pytest.mark.slow  # each starts workers of its own


def outcome(url: str, folder: Path, token: str, site: str = "paris", broker: str = "") -> tuple[int, str]:
    """Exit status and last line of a worker that must not come up."""
    with start_worker(broker or url, folder / "w", token=token, models=folder / "models", site=site) as worker:
        return worker.process.wait(45), worker.log.strip().splitlines()[-1]


def test_a_second_start_needs_no_token(site_url: str, control: ControlPlane, tmp_path: Path) -> None:
    with start_worker(site_url, tmp_path / "w", token=control.token(), models=tmp_path / "m") as worker:
        first = worker.id
        wait_for(worker.report)
        token = worker.store.get(f"ksb:worker:{first}")
        assert isinstance(token, bytes)
        report = checked(control.workers[first], Purpose.REPORT, token.decode(), Report)
        assert report.site == control.site
        assert report.hardware.cores > 0
        assert report.hardware.memory_bytes > 2**28
        assert worker.stop() == 0
        assert not worker.store.exists(f"ksb:worker:{first}")
    with start_worker(site_url, tmp_path / "w", models=tmp_path / "m") as worker:
        wait_for(worker.report)
        assert worker.id == first
        folder = worker.state_dir
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.glob("identity.*")} == {0o600}


@pytest.mark.parametrize(
    "error", ["the token was used before", "the token has expired", "the token is for site berlin"]
)
def test_the_control_planes_reason_is_told(site_url: str, control: ControlPlane, tmp_path: Path, error: str) -> None:
    status, last = outcome(site_url, tmp_path, control.token(error))
    assert status == 2
    assert error in last
    assert not (tmp_path / "w" / "state" / "identity.json").exists()


def test_a_token_serves_once(site_url: str, control: ControlPlane, tmp_path: Path) -> None:
    token = control.token()
    with start_worker(site_url, tmp_path / "first", token=token, models=tmp_path / "m") as worker:
        assert worker.id
    status, last = outcome(site_url, tmp_path / "second", token)
    assert (status, "used before" in last) == (2, True)


def test_without_token_or_with_a_broken_one(site_url: str, control: ControlPlane, tmp_path: Path) -> None:
    status, last = outcome(site_url, tmp_path, "")
    assert (status, "--enrol" in last) == (2, True)
    status, last = outcome(site_url, tmp_path, "kse_short")
    assert (status, "copy it whole" in last) == (2, True)


def test_the_state_of_another_site_is_not_used(site_url: str, control: ControlPlane, tmp_path: Path) -> None:
    with start_worker(site_url, tmp_path / "w", token=control.token(), models=tmp_path / "m") as worker:
        assert worker.id
        status, last = outcome(site_url, tmp_path, "")
        assert (status, "another worker runs" in last) == (2, True)
    status, last = outcome(site_url, tmp_path, "", site="berlin")
    assert (status, "belongs to a worker of site paris" in last) == (2, True)


async def test_a_silent_control_plane(site_url: str, tmp_path: Path) -> None:
    from inference_worker import store
    from inference_worker.enrol import NotEnrolled, enrol
    from inference_worker.identity import State

    token, _ = enrolment.new_token("0197f6a0-0000-7000-8000-000000000000")
    state = State(tmp_path / "state")
    for url, hint in ((site_url, "housekeeping"), ("redis://127.0.0.1:1/0", "cannot be reached")):
        redis = store.client(url)
        with pytest.raises(NotEnrolled, match=hint):
            await enrol(redis, state, token=token, site="paris", name="w", patience=1.0)
        await redis.aclose()
