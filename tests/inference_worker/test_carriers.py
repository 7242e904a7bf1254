"""Celery's stock parts serve as well as the batched ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from inference_worker.contract import keys
from inference_worker.contract.frames import Done
from tests.inference_worker.harness import ControlPlane, chat, start_worker, text_of, wait_for

pytestmark = pytest.mark.slow  # each starts workers of its own


@pytest.mark.parametrize("carrier", ["batched", "stock"])
def test_no_more_jobs_than_there_is_room_for(control: ControlPlane, tmp_path: Path, carrier: str) -> None:
    models, arguments = tmp_path / "m", ("--carrier", carrier)
    with start_worker(control.url, tmp_path / "w", token=control.token(), models=models, arguments=arguments) as worker:
        deployment = control.deployment(models, max_num_seqs=3)
        control.assign(worker.id, deployment)
        worker.await_ready()
        sent = [control.submit(deployment, chat(f"[[tokens=20 delay=0.05 tag=r{i}.]]")) for i in range(8)]
        wait_for(lambda: len(worker.ended("start")) == 3)
        time.sleep(0.3)
        assert len(worker.ended("start")) == 3
        assert control.store.llen(keys.queue(deployment.deployment)) == 5
        for i, job in enumerate(sent):
            given = control.frames(job, 20)
            assert isinstance(given[-1], Done)
            assert text_of(given) == "".join(f" r{i}.{token}" for token in range(20))
        assert worker.stop() == 0


@pytest.mark.parametrize("carrier", ["batched", "stock"])
def test_a_message_whose_engine_just_left_goes_back_to_its_queue(
    control: ControlPlane, tmp_path: Path, carrier: str
) -> None:
    """The engine dies with the answer of one job; the next, taken in the same moment, is not spent on it."""
    models, arguments = tmp_path / "m", ("--carrier", carrier)
    with start_worker(control.url, tmp_path / "w", token=control.token(), models=models, arguments=arguments) as worker:
        deployment = control.deployment(models, max_num_seqs=1)
        control.assign(worker.id, deployment)
        worker.await_ready()
        control.submit(deployment, chat("[[crash_after=0]]"))
        waiting = [control.submit(deployment, chat("[[tokens=2]]")) for _ in range(3)]
        for job in waiting:
            assert isinstance(control.frames(job, 20)[-1], Done)
        assert not control.refusals()
