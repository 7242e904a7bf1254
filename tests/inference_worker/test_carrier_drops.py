"""Rubbish in a queue of jobs: each message is taken by itself, dropped, and never read again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from inference_worker.carrying import transport
from inference_worker.contract import keys
from inference_worker.contract.frames import Done
from inference_worker.tasks import carrier
from tests.inference_worker.harness import ControlPlane, celery_envelope, chat, start_worker, wait_for


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


@pytest.mark.slow  # it starts workers of its own
@pytest.mark.parametrize("kind", ["batched", "stock"])
def test_jobs_go_on_beside_rubbish(control: ControlPlane, tmp_path: Path, kind: str) -> None:
    models, arguments = tmp_path / "m", ("--carrier", kind)
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


class _Broker:
    """Delivers messages; some cannot be."""

    def __init__(self) -> None:
        self.delivered: list[str] = []

    def _deliver(self, message: dict[str, Any], _queue: str) -> None:
        if message["body"] == "bad":
            raise KeyError("no such encoding")
        self.delivered.append(message["body"])


def test_message_that_cannot_be_built_keeps_none_of_its_batch_back() -> None:
    channel: Any = object.__new__(transport.Channel)
    channel.ack_emulation, channel.connection = False, _Broker()
    batch = [{"body": "a"}, {"body": "bad"}, {"body": "b"}]
    channel._deliver(batch, "dep.x")
    assert channel.connection.delivered == ["a", "b"]
    plain = _Broker()
    with pytest.raises(KeyError):  # the control: kombu's own way ends there, and the rest of what was popped is gone
        [plain._deliver(message, "dep.x") for message in batch]
    assert plain.delivered == ["a"]


def test_message_that_celery_trips_over_is_rejected_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rejected = []

    class Message:
        def __init__(self, text: str) -> None:
            self.text = text

        def reject_log_error(self, *_: object) -> None:
            rejected.append(self.text)

    def take(message: Message) -> None:
        if message.text == "away":
            raise ConnectionResetError
        if message.text == "secret ticket":
            raise ValueError(message.text)

    monkeypatch.setattr(carrier.CeleryConsumer, "create_task_handler", lambda *_: take)
    consumer: Any = object.__new__(carrier.Consumer)
    consumer.connection_errors = (ConnectionError,)
    received = consumer.create_task_handler()
    received(Message("good"))
    received(Message("secret ticket"))
    assert rejected == ["secret ticket"]
    assert "secret" not in caplog.text
    with pytest.raises(ConnectionResetError):
        received(Message("away"))
    with pytest.raises(ValueError, match="secret"):  # the control: it would end Celery's worker
        carrier.CeleryConsumer.create_task_handler(consumer)(Message("secret ticket"))
