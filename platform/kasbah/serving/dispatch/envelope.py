"""The Celery message of a job: task protocol 2 in kombu's Redis framing, without Celery's publishing machinery.

`apply_async` holds the event loop for 0.6 ms; filling in a template takes a twentieth. The template is made by
Celery and kombu themselves, once a process, so it is theirs in every field (tests/serving/test_carriers.py compares
it with what `apply_async` sends).
"""

from __future__ import annotations

import base64
import copy
import uuid
from functools import cache
from typing import Any

import msgspec
from celery import Celery
from kombu import Connection, serialization

from inference_worker.contract import keys
from inference_worker.contract.messages import JobMessage


@cache
def app() -> Celery:
    """A Celery application that only sends: no result backend, JSON, no retry of publishing."""
    sender = Celery("kasbah-dispatch", set_as_current=False)
    sender.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_create_missing_queues=True,
        task_publish_retry=False,
        worker_send_task_events=False,
    )
    return sender


@cache
def _template() -> dict[str, Any]:
    # `argsrepr` would carry ticket and payload once more.
    task = app().amqp.as_task_v2("", keys.TASK, args=(), argsrepr="", kwargsrepr="", ignore_result=True)
    content_type, content_encoding, body = serialization.dumps(task.body, serializer="json")
    with Connection("memory://") as connection:
        channel: Any = connection.channel()  # kombu.transport.virtual.Channel, which the Redis one is too
        message: dict[str, Any] = channel.prepare_message(
            body, 0, content_type, content_encoding, task.headers, {**task.properties, "delivery_mode": 2}
        )
        message["body"], message["properties"]["body_encoding"] = channel.encode_body(body, channel.body_encoding)
    return message


def envelope(message: JobMessage, queue: str) -> bytes:
    """What is pushed onto the list `queue` for a stock Celery worker to take."""
    sent = copy.copy(_template())
    task_id = f"{message.job}:{message.attempt}"
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = msgspec.json.encode([[message], {}, embed])
    sent["body"] = base64.b64encode(body).decode("ascii")
    sent["headers"] = {**sent["headers"], "id": task_id, "root_id": task_id}
    sent["properties"] = {
        **sent["properties"],
        "correlation_id": task_id,
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue},
    }
    return msgspec.json.encode(sent)
