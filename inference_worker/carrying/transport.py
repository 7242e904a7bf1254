"""kombu's Redis transport with fewer round trips: many messages a pop, one pipeline for those popped or acknowledged.

Queues, `unacked` and `unacked_index` are written as the stock transport writes them, so workers with either can serve
one queue and restore each other's messages after the visibility timeout. What differs:

- BLMPOP (Redis 7.0, Valkey 7.2) takes as many messages as the prefetch count leaves room for, shared among the queues
  that are consumed; BRPOP takes one a round trip.
- With `ack_emulation` the batch is recorded as unacknowledged in one transaction, and what was acknowledged since the
  last round leaves it in another.
- Commands other than the blocking pop share one client; the stock transport makes a new one for each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from queue import Empty
from time import monotonic, time
from typing import Any

from kombu.exceptions import VersionMismatch
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from inference_worker.carrying.quick import loads

log = logging.getLogger(__name__)

MOST = 16  # messages a pop: what they start runs before the event loop looks at anything else


class QoS(redis.QoS):
    """The messages that are not acknowledged yet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recorded: set[str] = set()
        self._acknowledged: list[str] = []

    def record(self, messages: Sequence[dict[str, Any]]) -> None:
        """Write a popped batch down as unacknowledged."""
        with self.pipe_or_acquire() as pipe:
            for message in messages:
                tag, info = message["properties"]["delivery_tag"], message["properties"]["delivery_info"]
                pipe.zadd(self.unacked_index_key, {tag: time()})
                pipe.hset(self.unacked_key, tag, dumps([message, info["exchange"], info["routing_key"]]))
                self._recorded.add(tag)
            pipe.execute()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a delivered message; write it down where `record` has not."""
        if delivery_tag in self._recorded:
            self._recorded.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Written with the others by `write_acknowledged`."""
        self._acknowledged.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def write_acknowledged(self) -> None:
        """Once a round of the event loop. What an error leaves unwritten is delivered again, as after a crash."""
        if self._acknowledged:
            tags, self._acknowledged = self._acknowledged, []
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """At the end: acknowledged messages are not given back."""
        errors: tuple[type[Exception], ...] = self.channel.connection_errors  # type: ignore[attr-defined]
        with suppress(*errors):
            self.write_acknowledged()
        super().restore_unacked_once(stderr)


class Channel(redis.Channel):
    """Pops in batches."""

    QoS = QoS

    # Of kombu's channel, missing in its stubs.
    qos: Any
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    _queue_cycle: Any
    _create_client: Any
    _q_for_pri: Any
    _flush_brpop_reauth: Any

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The shared client; redis-py's are safe to share."""
        yield client or self._shared

    @cached_property
    def _shared(self) -> Any:
        return self._create_client()

    def _disconnect_pools(self) -> None:
        stock: Any = super()
        stock._disconnect_pools()
        self.__dict__.pop("_shared", None)

    def _room(self) -> int:
        """Messages that may be taken now."""
        room = self.qos.can_consume_max_estimate()
        return MOST if room is None else min(room, MOST)

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        names = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        count = max(self._room() // len(queues), 1)
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        wait = self.brpop_timeout if timeout is None else timeout
        keys = [self.global_keyprefix + name for name in names]
        connection.send_command("BLMPOP", wait or 0, len(keys), *keys, "RIGHT", "COUNT", count)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            key, items = self._popped(options)
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        name = bytes_to_str(key).removeprefix(self.global_keyprefix)
        queue = name.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        room = self._room() if queue in self._active_queues else 0
        if len(items) > room:  # the prefetch count was lowered, or the queue left, while the pop was under way
            with self.conn_or_acquire() as client:
                client.rpush(name, *reversed(items[room:]))
        self._deliver([message for item in items[:room] if (message := _parsed(item)) is not None], queue)
        return True

    def _popped(self, options: dict[str, Any]) -> tuple[bytes, list[bytes]]:
        connection = self.client.connection
        try:
            reply: tuple[bytes, list[bytes]] | None = self.client.parse_response(connection, "BLMPOP", **options)
        except self.connection_errors:
            connection.disconnect()
            raise
        except self.ResponseError as error:
            if "unknown command" in str(error).lower():
                raise VersionMismatch(
                    "the broker does not know BLMPOP: use Redis 7.0, Valkey 7.2 or newer, or the stock transport"
                ) from error
            raise
        if not reply:
            raise Empty
        return reply

    def _deliver(self, messages: list[dict[str, Any]], queue: str) -> None:
        if self.ack_emulation and messages:
            self.qos.record(messages)
        for message in messages:
            try:
                self.connection._deliver(message, queue)
            except Exception as error:  # noqa: BLE001 - the others of its batch are delivered all the same
                # The type alone: a message, and so an error's text, may hold a ticket.
                log.error("a message of queue %s cannot be read (%s); it is dropped", queue, type(error).__name__)  # noqa: TRY400


def _parsed(item: bytes) -> dict[str, Any] | None:
    """A message, or None for what is none: the others of its batch are delivered all the same."""
    try:
        message: dict[str, Any] = loads(item)
        properties = message["properties"]
        info = properties["delivery_info"]
        _ = properties["delivery_tag"], info["exchange"], info["routing_key"]
    except (ValueError, KeyError, TypeError, RecursionError):
        log.error("something in a queue is not a message of kombu's; it is dropped")  # noqa: TRY400
        return None
    return message


class Poller(redis.MultiChannelPoller):
    """Writes what was acknowledged before it asks for more."""

    _channels: set[Any]  # missing in kombu's stubs

    def on_poll_start(self) -> None:
        """At the start of a round."""
        for channel in self._channels:
            if isinstance(channel.qos, QoS):
                channel.qos.write_acknowledged()
        super().on_poll_start()


class Transport(redis.Transport):
    """For `broker_transport`; takes redis:// and rediss:// URLs and every option of the stock one."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
