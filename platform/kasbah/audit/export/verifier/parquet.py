"""A table in Apache Parquet, in its plainest form: required columns, PLAIN pages, no compression.

Whoever writes it twice from the same events gets the same bytes; so a verifier needs no reader for it. Format:
github.com/apache/parquet-format, its structures in Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from kasbah.audit.export.verifier.failure import Facts

GROUP = 4_000  # rows of a row group; so many lie in memory
MAGIC = b"PAR1"
TEXT, NUMBER, MOMENT = "text", "number", "moment"  # UTF-8; 64 bits; microseconds since 1970 in UTC
FIELDS = {
    "index": NUMBER,
    "id": TEXT,
    "time": MOMENT,
    "type": TEXT,
    "outcome": TEXT,
    "reason": TEXT,
    "actor_kind": TEXT,
    "actor_id": TEXT,
    "authentication": TEXT,
    "resource_type": TEXT,
    "resource_id": TEXT,
    "resource_digest": TEXT,
    "request_id": TEXT,
    "intent": TEXT,
    "tenant": TEXT,
    "policy_id": TEXT,
    "policy_version": NUMBER,
    "policy_decision": TEXT,
    "policy_rule": TEXT,
    "data_class": TEXT,
    "model_name": TEXT,
    "model_digest": TEXT,
    "site": TEXT,
    "worker": TEXT,
    "tokens_prompt": NUMBER,
    "tokens_completion": NUMBER,
    "leaf": TEXT,
}
TRUE, I32, I64, BINARY, LIST, STRUCT = 1, 5, 6, 8, 9, 12  # types of Thrift's compact protocol
DAY_ZERO = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - runs on Python 3.10 too
MICROSECOND = timedelta(microseconds=1)
Row = tuple[Any, ...]
Groups = dict[int, list[bytes]]  # of a part: number of the row group -> what it adds to each column


@lru_cache(maxsize=16)
def micros_of(time: str) -> int:
    """Microseconds since 1970 in UTC. A view after the other asks for the same event's."""
    return (datetime.fromisoformat(time.replace("Z", "+00:00")) - DAY_ZERO) // MICROSECOND


def cells_of(index: int, event: Facts, leaf: bytes) -> Row:
    """The event's row. What an event does not say is an empty text, or 0."""
    actor, resource = event["actor"], event.get("resource", {})
    policy, model, tokens = event.get("policy", {}), event.get("model", {}), event.get("tokens", {})
    return (
        index,
        event["id"],
        micros_of(event["time"]),
        event["type"],
        event["outcome"],
        event.get("reason", ""),
        actor.get("kind", ""),
        actor.get("id", ""),
        actor.get("authentication", ""),
        resource.get("type", ""),
        resource.get("id", ""),
        resource.get("digest", ""),
        event.get("request_id", ""),
        event.get("intent", ""),
        event.get("tenant", ""),
        policy.get("id", ""),
        policy.get("version", 0),
        policy.get("decision", ""),
        policy.get("rule", ""),
        event.get("details", {}).get("data_class", ""),
        model.get("name", ""),
        model.get("digest", ""),
        event.get("site", ""),
        event.get("worker", ""),
        tokens.get("prompt", 0),
        tokens.get("completion", 0),
        leaf.hex(),
    )


def grouped(position: int, rows: list[Row]) -> Groups:
    """What rows that follow each other add to the columns. `position`: of the first, among all rows of the table."""
    found: Groups = {}
    at = 0
    while at < len(rows):
        group = (position + at) // GROUP
        end = min(len(rows), (group + 1) * GROUP - position)
        columns = zip(FIELDS.values(), zip(*rows[at:end], strict=True), strict=True)
        found[group] = [_texts(column) if kind == TEXT else _numbers(column) for kind, column in columns]
        at = end
    return found


def _texts(column: tuple[Any, ...]) -> bytes:
    """A column, PLAIN; what is there often is encoded once."""
    encoded = {value: len(data := value.encode()).to_bytes(4, "little") + data for value in set(column)}
    return b"".join(map(encoded.__getitem__, column))


def _numbers(column: tuple[Any, ...]) -> bytes:
    return struct.pack(f"<{len(column)}q", *column)


class Table:
    """The file, written through `write` as its row groups become full."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._at = self._rows = self._in_group = 0
        self._columns = [bytearray() for _ in FIELDS]
        self._groups: list[bytes] = []
        self._put(MAGIC)

    def add(self, groups: Groups, rows: int) -> None:
        """The next rows."""
        for number, columns in groups.items():
            if number > len(self._groups):
                self._end_group(GROUP)
            for column, data in zip(self._columns, columns, strict=True):
                column.extend(data)
        self._rows += rows
        if self._rows == (len(self._groups) + 1) * GROUP:
            self._end_group(GROUP)

    def end(self) -> None:
        """What is left, and the footer."""
        if left := self._rows - len(self._groups) * GROUP:
            self._end_group(left)
        footer = _struct(
            (1, I32, 1),
            (2, LIST, (STRUCT, list(_schema()))),
            (3, I64, self._rows),
            (4, LIST, (STRUCT, self._groups)),
            (6, BINARY, b"kasbah"),
        )
        self._put(footer + len(footer).to_bytes(4, "little") + MAGIC)

    def _put(self, data: bytes | bytearray) -> None:
        self._write(bytes(data))
        self._at += len(data)

    def _end_group(self, rows: int) -> None:
        start, chunks = self._at, []
        for (name, kind), column in zip(FIELDS.items(), self._columns, strict=True):
            at = self._at
            # Encodings 0 and 3 are PLAIN and RLE; the latter is named for levels, of which required columns have none.
            page = _struct((1, I32, rows), (2, I32, 0), (3, I32, 3), (4, I32, 3))
            size = len(column)
            self._put(_struct((1, I32, 0), (2, I32, size), (3, I32, size), (5, STRUCT, page)))
            self._put(column)
            chunks.append(_chunk(name, kind, rows, at, self._at - at))
            column.clear()
        self._groups.append(_struct((1, LIST, (STRUCT, chunks)), (2, I64, self._at - start), (3, I64, rows)))


def _chunk(name: str, kind: str, rows: int, at: int, size: int) -> bytes:
    physical = 6 if kind == TEXT else 2  # BYTE_ARRAY, INT64
    about = _struct(
        (1, I32, physical),
        (2, LIST, (I32, [_zigzag(0), _zigzag(3)])),
        (3, LIST, (BINARY, [_sized(name.encode())])),
        (4, I32, 0),  # not compressed
        (5, I64, rows),
        (6, I64, size),
        (7, I64, size),
        (9, I64, at),
    )
    return _struct((2, I64, at), (3, STRUCT, about))


def _schema() -> Iterator[bytes]:
    yield _struct((4, BINARY, b"events"), (5, I32, len(FIELDS)))
    micros = _struct((1, TRUE, None), (2, STRUCT, _struct((2, STRUCT, _struct()))))
    types: dict[str, tuple[tuple[int, int, object], ...]] = {
        TEXT: ((6, I32, 0), (10, STRUCT, _struct((1, STRUCT, _struct())))),
        NUMBER: (),
        MOMENT: ((6, I32, 10), (10, STRUCT, _struct((8, STRUCT, micros)))),
    }
    for name, kind in FIELDS.items():
        yield _struct((1, I32, 6 if kind == TEXT else 2), (3, I32, 0), (4, BINARY, name.encode()), *types[kind])


# --- Thrift's compact protocol: a structure is its fields, each as (id, type, value), ids ascending ---


def _struct(*fields: tuple[int, int, object]) -> bytes:
    made, last = bytearray(), 0
    for number, kind, value in fields:
        made.append((number - last) << 4 | kind)
        made += _value(kind, value)
        last = number
    return bytes(made) + b"\x00"


def _value(kind: int, value: object) -> bytes:
    if isinstance(value, int):
        return _zigzag(value)
    if isinstance(value, bytes):
        return _sized(value) if kind == BINARY else value
    if isinstance(value, tuple):
        return _list(*value)
    return b""  # TRUE: its type says all


def _list(kind: int, items: Iterable[bytes]) -> bytes:
    found = list(items)
    head = bytes([len(found) << 4 | kind]) if len(found) < 15 else bytes([0xF0 | kind]) + _varint(len(found))
    return head + b"".join(found)


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
