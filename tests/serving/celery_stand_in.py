"""A stock Celery worker around the stand-in: `celery -A tests.serving.celery_stand_in worker -P threads -Q QUEUE`."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from celery import Celery

from inference_worker.contract import keys, scripts
from inference_worker.contract.messages import JobMessage
from tests.serving.stand_in import StandIn

worker = StandIn.decode(os.environ["STAND_IN"])
app = Celery("stand-in", broker=worker.url)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    accept_content=["json"],
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name=keys.TASK, shared=False)  # type: ignore[untyped-decorator]
def infer(message: dict[str, Any]) -> None:
    """Answer a job; a delivery that is not the current one does nothing."""
    taken = worker.open(msgspec.convert(message, JobMessage))
    if worker.claim(taken) == scripts.OK:
        worker.answer(taken)
