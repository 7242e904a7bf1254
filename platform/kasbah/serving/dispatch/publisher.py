"""Celery's own messages to one site's broker, by kombu: RabbitMQ, or a Redis that is not the site's store.

RabbitMQ confirms each message once its quorum queue has written it down; a message that was not confirmed counts as
not sent (MARK), and one that was confirmed is looked for by the length of its queue, so that a broker that loses its
data loses no job.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from amqp.exceptions import AMQPError
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError, OperationalError

from inference_worker.contract import keys, tls
from inference_worker.contract.messages import JobMessage
from kasbah.serving.dispatch import envelope
from kasbah.serving.dispatch.store import StoreAway

AWAY = (AMQPError, KombuError, OperationalError, OSError)


@dataclass(frozen=True, slots=True)
class Offer:
    """One attempt of one job for the queue of a deployment."""

    deployment: str
    message: JobMessage


def is_amqp(url: str) -> bool:
    """Whether it is RabbitMQ's address."""
    return urlsplit(url).scheme in {"amqp", "amqps"}


class Publisher:
    """One kept connection, made when it is needed and again when it broke. Any thread may call; one at a time."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout, self._amqp = url, timeout, is_amqp(url)
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def publish(self, offers: Sequence[Offer]) -> None:
        """Returns once the broker has all of them. Raises StoreAway; some of them may have been sent then."""
        with self._connected() as connection:
            for offer in offers:
                self._send(connection, offer)

    def waiting(self, deployments: Sequence[str]) -> dict[str, int]:
        """How many messages lie in the queue of each, not counting those that a worker holds. Raises StoreAway."""
        with self._connected() as connection:
            return {deployment: self._count(connection, keys.queue(deployment)) for deployment in deployments}

    def ping(self) -> None:
        """Raises StoreAway."""
        with self._connected() as connection:
            channel: Any = connection.channel()
            channel.close()

    def close(self) -> None:
        """Give the connection up."""
        with self._lock:
            self._drop()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._lock:
            try:
                yield self._open()
            except AWAY as error:
                self._drop()
                raise StoreAway(type(error).__name__) from error

    def _open(self) -> Connection:
        if self._connection is not None and self._alive(self._connection):
            return self._connection
        self._drop()
        options = {"confirm_publish": True, "read_timeout": self._timeout, "write_timeout": self._timeout}
        made = envelope.app().connection_for_write(
            self._url,
            connect_timeout=self._timeout,
            ssl=tls.options(self._url),
            transport_options=options if self._amqp else {"socket_timeout": self._timeout},
        )
        made.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        self._connection = made
        return made

    def _alive(self, connection: Connection) -> bool:
        """Whether the broker has not closed it since it was last used; what it said meanwhile is read."""
        if not connection.connected:
            return False
        if self._amqp:
            try:
                connection.drain_events(timeout=0.0001)
            except TimeoutError:
                return True
            except AWAY:
                return False
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*AWAY):
                connection.collect(socket_timeout=self._timeout)

    def _send(self, connection: Connection, offer: Offer) -> None:
        name = keys.queue(offer.deployment)
        queue: Any = quorum_queue(name) if self._amqp else name
        envelope.app().send_task(
            keys.TASK,
            args=[msgspec.to_builtins(offer.message)],
            task_id=f"{offer.message.job}:{offer.message.attempt}",
            queue=queue,
            connection=connection,
            argsrepr="",
            kwargsrepr="",
            ignore_result=True,
        )

    def _count(self, connection: Connection, name: str) -> int:
        channel: Any = connection.channel()
        try:
            return int(channel.queue_declare(queue=name, passive=True).message_count)
        except connection.channel_errors:
            return 0  # there is no such queue: nobody has consumed or sent yet, or it was lost
        finally:
            with contextlib.suppress(*AWAY):
                channel.close()


def quorum_queue(name: str) -> Queue:
    """A queue of RabbitMQ's that is replicated and on disk; workers declare the same (tasks/carrier.py)."""
    return Queue(name, Exchange(""), routing_key=name, queue_arguments=keys.QUORUM)
