"""What the control plane wants is followed; what somebody else wants is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract import keys
from inference_worker.contract.frames import Done
from inference_worker.contract.signing import Signer
from tests.inference_worker.harness import ControlPlane, RunningWorker, chat, wait_for

pytestmark = pytest.mark.slow  # each starts workers of its own


def test_deployments_come_and_go(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    one, two = control.deployment(models, "one"), control.deployment(models, "two", b"other weights")
    control.assign(worker.id, one, two)
    worker.await_ready(2)
    for deployment in (one, two):
        assert isinstance(control.frames(control.submit(deployment, chat("[[tokens=2]]")))[-1], Done)
    control.assign(worker.id, two)
    wait_for(lambda: set(worker.states()) == {two.deployment})
    left = control.submit(one, chat("[[tokens=2]]"))
    assert isinstance(control.frames(control.submit(two, chat("[[tokens=2]]")))[-1], Done)
    time.sleep(0.5)
    assert control.store.llen(keys.queue(one.deployment)) == 1
    assert not control.entries(left)


def test_a_drained_worker_finishes_and_takes_no_more(
    control: ControlPlane, worker: RunningWorker, models: Path
) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    running = control.submit(deployment, chat("[[tokens=60 delay=0.05]]"))
    wait_for(lambda: control.arrived(running))
    control.assign(worker.id, deployment, state="drained")
    wait_for(lambda: (report := worker.report()) is not None and report.state == "drained")
    waiting = control.submit(deployment, chat("[[tokens=2]]"))
    assert isinstance(control.frames(running)[-1], Done)
    time.sleep(0.5)
    assert not control.entries(waiting)
    control.assign(worker.id, deployment)
    assert isinstance(control.frames(waiting)[-1], Done)


def test_a_revoked_worker_stops_and_says_so(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    children = worker.descendants()
    assert children
    control.assign(worker.id, state="revoked")
    assert worker.process.wait(20) == 3
    assert "revoked by the control plane" in worker.log


@pytest.mark.parametrize("attack", ["forged", "older", "for another worker"])
def test_an_assignment_that_is_not_the_control_planes_is_refused(
    control: ControlPlane, worker: RunningWorker, models: Path, attack: str
) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment, revision=5)
    worker.await_ready()
    key, signer = keys.assignment(worker.id), control.signer
    if attack == "forged":
        control.signer = Signer(Ed25519PrivateKey.generate())
        control.assign(worker.id, revision=6)
    elif attack == "older":
        control.assign(worker.id, revision=4)
    else:
        control.assign("somebody", revision=6)
        control.store.rename(keys.assignment("somebody"), key)
    control.signer = signer
    wait_for(lambda: "an assignment was refused" in worker.log)
    assert worker.states() == {deployment.deployment: "ready"}
    control.assign(worker.id, revision=6)
    wait_for(lambda: not worker.states())
