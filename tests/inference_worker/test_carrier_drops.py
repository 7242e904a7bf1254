"""Rubbish in a queue of jobs: each message is taken by itself, dropped, and never read again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract import keys
from inference_worker.contract.frames import Done
from tests.inference_worker.harness import ControlPlane, celery_envelope, chat, start_worker, wait_for

pytestmark = pytest.mark.slow  # each starts workers of its own


def hostile(real: bytes) -> list[bytes]:
    """What may lie in a queue beside a real message."""
    made: dict[str, Any] = json.loads(real)

    def but(**changes: Any) -> bytes:
        return json.dumps(made | changes).encode()

    def body(*arguments: Any) -> bytes:
        inner = json.dumps([list(arguments), {}, {}]).encode()
        return but(body=base64.b64encode(inner).decode())

    message = {"job": "j", "attempt": 1, "ticket": "t", "payload": "p", "reply_to": "r"}
    properties = made["properties"]
    return [
        b"\xff",
        b"[" * 50_000,
        b"{}",
        b'"text"',
        but(body="no base64"),
        but(body=None),
        but(headers=None),
        but(headers={"task": keys.TASK}),
        but(headers=made["headers"] | {"task": "os.system"}),
        but(**{"content-type": "application/x-python-serialize"}),
        but(**{"content-encoding": "no such"}),
        but(properties=properties | {"body_encoding": "no such"}),
        but(properties={}),
        body(),
        body(1),
        body({"job": "j"}),
        body(message | {"attempt": 10**30}),
        body(message | {"job": "\ud800"}),
        body(message | {"job": "x" * 100_000}),
    ]


@pytest.mark.parametrize("carrier", ["batched", "stock"])
def test_jobs_go_on_beside_rubbish(control: ControlPlane, tmp_path: Path, carrier: str) -> None:
    models, arguments = tmp_path / "m", ("--carrier", carrier)
    with start_worker(control.url, tmp_path / "w", token=control.token(), models=models, arguments=arguments) as worker:
        deployment = control.deployment(models, max_num_seqs=2)
        control.assign(worker.id, deployment)
        worker.await_ready()
        queue = keys.queue(deployment.deployment)
        sample = control.prepare(deployment, chat("[[tokens=1]]"))

        for rubbish in hostile(celery_envelope(sample.message, queue)):
            control.store.lpush(queue, rubbish)
        jobs = [control.submit(deployment, chat("[[tokens=2]]")) for _ in range(4)]
        for job in jobs:
            assert isinstance(control.frames(job, 30)[-1], Done)
        wait_for(lambda: not control.store.llen(queue))
        assert worker.process.poll() is None
        assert worker.stop() == 0
