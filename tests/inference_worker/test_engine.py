"""The engine's life: verified, started, watched, restarted, and never left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.frames import Done, Failed
from inference_worker.contract.messages import Served
from tests.inference_worker.harness import ControlPlane, RunningWorker, alive, chat, start_worker, wait_for

pytestmark = pytest.mark.slow  # each starts workers of its own


def served(worker: RunningWorker) -> Served | None:
    report = worker.report()
    return report.served[0] if report and report.served else None


def failed(worker: RunningWorker) -> str:
    """Why the engine failed, once it says so."""
    found = wait_for(lambda: (s := served(worker)) is not None and s.state == "failed" and s, 15)
    assert isinstance(found, Served)
    return found.detail


def engine_pids(worker: RunningWorker) -> list[int]:
    """Processes of the fake engine, without the keeper."""
    return [pid for pid in worker.descendants() if b"keeper.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_crash_tells_the_job_to_go_elsewhere_and_the_engine_comes_back(
    control: ControlPlane, worker: RunningWorker, models: Path
) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    for text in ("[[crash_after=0]]", "[[tokens=9 crash_after=4]]"):
        sent = control.submit(deployment, chat(text))
        last = control.frames(sent)[-1]
        assert isinstance(last, Failed)
        assert (last.status, last.code, last.retry) == (503, "engine_lost", True)
        assert isinstance(control.frames(control.submit(deployment, chat("[[tokens=2]]")), 20)[-1], Done)


def test_while_the_engine_is_down_nothing_is_taken(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    control.frames(control.submit(deployment, chat("[[crash_after=0]]")))
    waiting = control.submit(deployment, chat("[[tokens=2]]"))
    assert isinstance(control.frames(waiting, 20)[-1], Done)
    assert not control.refusals()


def test_an_engine_that_hangs_is_killed_and_restarted(
    control: ControlPlane, worker: RunningWorker, models: Path
) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    before = engine_pids(worker)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not alive(before), 15)
    assert "hangs: no token" in worker.log
    assert isinstance(control.frames(control.submit(deployment, chat("[[tokens=2]]")), 20)[-1], Done)


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "link", "no folder", "other manifest"])
def test_files_that_differ_are_not_loaded(
    control: ControlPlane, worker: RunningWorker, models: Path, damage: str
) -> None:
    deployment = control.deployment(models)
    folder = models / deployment.model_digest
    file = folder / "model.safetensors"
    if damage == "changed":
        file.write_bytes(b"weightz")
    elif damage == "missing":
        file.unlink()
    elif damage == "added":
        (folder / "modeling.py").write_text("import os")
    elif damage == "link":
        (folder / "more").symlink_to("/etc/passwd")
    elif damage == "no folder":
        folder.rename(models / "elsewhere")
    else:  # the manifest fits the files but not the digest that the assignment names
        other = control.deployment(models, content=b"other weights")
        (models / other.model_digest).rename(models / "elsewhere")
        folder.rename(models / other.model_digest)
        deployment = other.__class__(
            deployment=deployment.deployment, name="demo", model_digest=other.model_digest,
            manifest=deployment.manifest, engine=deployment.engine,
        )  # fmt: skip
    control.assign(worker.id, deployment)
    expected = {
        "changed": "differs from the manifest", "missing": "is missing", "added": "is not in the manifest",
        "link": "is a link", "no folder": "not in the models folder", "other manifest": "the assignment names",
    }  # fmt: skip
    assert expected[damage] in failed(worker)
    assert not engine_pids(worker)
    assert not (worker.state_dir / "logs").exists()


def test_files_that_changed_since_the_last_start_are_seen(
    control: ControlPlane, worker: RunningWorker, models: Path
) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    file = models / deployment.model_digest / "model.safetensors"
    times = file.stat()
    file.write_bytes(b"weightz")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    control.frames(control.submit(deployment, chat("[[crash_after=0]]")))
    wait_for(lambda: "differs from the manifest" in failed(worker), 15)


@pytest.mark.parametrize("extra", [["--trust-remote-code"], ["--host=0.0.0.0"], ["--chat-template", "/etc/passwd"]])
def test_flags_that_open_a_door_are_refused(
    control: ControlPlane, worker: RunningWorker, models: Path, extra: list[str]
) -> None:
    control.assign(worker.id, control.deployment(models, extra=extra))
    assert "is not one that a deployment may set" in failed(worker)
    assert not engine_pids(worker)


@pytest.mark.parametrize(
    ("environment", "arguments", "detail"),
    [
        ({"FAKE_EAT_MIB": "300"}, ("--engine-memory", "0.2"), "GiB of memory, 0.2 are allowed"),
        ({"FAKE_START_DELAY": "60"}, ("--engine-start", "1"), "not ready within 1 s"),
        ({"PYTHONHOME": "/nowhere"}, (), "while starting"),
    ],
)
def test_an_engine_that_does_not_come_up(
    control: ControlPlane, tmp_path: Path, environment: dict[str, str], arguments: Any, detail: str
) -> None:
    options = {"engine_environment": environment, "arguments": arguments}
    with start_worker(control.url, tmp_path / "w", token=control.token(), models=tmp_path / "m", **options) as worker:
        control.assign(worker.id, control.deployment(tmp_path / "m"))
        assert detail in failed(worker)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_worker(control: ControlPlane, tmp_path: Path, ending: signal.Signals) -> None:
    options = {"engine_environment": {"FAKE_CHILD": "1"}}
    with start_worker(control.url, tmp_path / "w", token=control.token(), models=tmp_path / "m", **options) as worker:
        control.assign(worker.id, control.deployment(tmp_path / "m"))
        worker.await_ready()
        left = worker.descendants()
        assert len(left) >= 3  # keeper, engine, the engine's child
        worker.process.send_signal(ending)
        worker.process.wait(20)
        wait_for(lambda: not alive(left), 3)


def test_a_killed_keeper_takes_its_engine_along(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    engines = engine_pids(worker)
    (keeper,) = set(worker.descendants()) - set(engines)
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: not alive(engines), 5)
    assert isinstance(control.frames(control.submit(deployment, chat("[[tokens=2]]")), 20)[-1], Done)


def test_sigterm_lets_running_jobs_finish(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    running = control.submit(deployment, chat("[[tokens=40 delay=0.05]]"))
    wait_for(lambda: control.arrived(running))
    worker.process.terminate()
    wait_for(lambda: (report := worker.report()) is not None and report.state == "stopping", 3)
    waiting = control.submit(deployment, chat("[[tokens=2]]"))
    assert isinstance(control.frames(running)[-1], Done)
    assert worker.process.wait(15) == 0
    assert not control.entries(waiting)
    assert control.store.llen(f"dep.{deployment.deployment}") == 1


def test_sigterm_stops_what_does_not_finish_in_time(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    running = control.submit(deployment, chat("[[tokens=2000 delay=0.05]]"))
    wait_for(lambda: control.arrived(running))
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 10
    last = control.frames(running)[-1]
    assert isinstance(last, Failed)
    assert (last.code, last.retry) == ("worker_stopping", True)


def test_the_engine_inherits_no_secret(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    control.assign(worker.id, control.deployment(models))
    worker.await_ready()
    for pid in worker.descendants():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"KASBAH" not in environment
        assert b"redis://" not in environment + arguments
        assert b"HF_HUB_OFFLINE=1" in environment
    assert b"KASBAH_BROKER_URL" in Path(f"/proc/{worker.process.pid}/environ").read_bytes()  # the search can find it
