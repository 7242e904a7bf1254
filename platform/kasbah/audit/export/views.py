"""Views of an export: what is derived from its events while they are written, for readers who want no log.

To add one, write a class as `View` describes and name it in VIEWS; and teach the verifier to derive it again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from kasbah.audit.export.verifier.views import COLUMNS, row_of

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an export before its first event. `size` and `root` (hex) are those of the signed tree.

    `selection` is what the manifest says of it; `events` how many there will be. `spool` gives an empty file, for a
    view that grows with the log; the export closes it.
    """

    origin: str
    selection: Facts
    events: int
    size: int
    root: str
    spool: Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Made:
    """One file of a view: its path in the archive, and its bytes."""

    path: str
    file: IO[bytes]


class View(Protocol):
    """Hears every event in order, then gives its files. The same events give the same bytes."""

    def add(self, number: int, event: Facts, data: bytes) -> None:
        """The event with the index `number`, as its exact bytes `data` and parsed."""

    def finish(self) -> Iterable[Made]:
        """The files, always in the same order."""


class CsvView:
    """views/events.csv: one row an event."""

    def __init__(self, header: Header) -> None:
        self._file = header.spool()
        self._rows = csv.writer(_Utf8(self._file), lineterminator="\r\n")
        self._rows.writerow(COLUMNS)

    def add(self, number: int, event: Facts, data: bytes) -> None:
        """Its row."""
        self._rows.writerow(row_of(number, event))

    def finish(self) -> Iterable[Made]:
        """The table."""
        yield Made("views/events.csv", self._file)


class _Utf8:
    """What csv writes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


VIEWS: tuple[Callable[[Header], View], ...] = (CsvView,)
