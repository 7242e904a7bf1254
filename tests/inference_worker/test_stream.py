"""Jobs through a real worker, a real Valkey and a fake engine."""

from __future__ import annotations

from pathlib import Path

from inference_worker.contract.frames import Data, Done, Role
from inference_worker.contract.messages import Receipt, Usage, checked
from inference_worker.contract.signing import Purpose
from tests.inference_worker.harness import ControlPlane, RunningWorker, chat, text_of


def test_a_stream_arrives_whole_with_a_receipt(control: ControlPlane, worker: RunningWorker, models: Path) -> None:
    deployment = control.deployment(models)
    control.assign(worker.id, deployment)
    worker.await_ready()
    sent = control.submit(deployment, chat("[[tokens=5 tag=x]] hello"), stream=True)
    frames = control.frames(sent)
    assert isinstance(frames[0], Role)
    assert text_of(frames) == " x0 x1 x2 x3 x4"
    assert all(isinstance(frame, Data) and b'"usage"' not in frame.chunk for frame in frames[1:-1])
    done = frames[-1]
    assert isinstance(done, Done)
    assert done.usage == Usage(3, 5)
    receipt = checked(control.workers[worker.id], Purpose.RECEIPT, done.receipt, Receipt)
    assert (receipt.job, receipt.site, receipt.outcome) == (sent.job, control.site, "succeeded")
