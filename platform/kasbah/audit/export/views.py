"""Views of an export: what is derived from its events while they are written, for readers who want no log.

To add one, write a class as `View` describes and name it in VIEWS; and teach the verifier to derive it again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

from kasbah.audit.export.report.document import document
from kasbah.audit.export.report.page import page
from kasbah.audit.export.report.texts import LANGUAGES, Texts
from kasbah.audit.export.verifier.parquet import Row, Table, cells_of, grouped
from kasbah.audit.export.verifier.tally import Tally, log_facts
from kasbah.audit.export.verifier.views import COLUMNS, CSV, OCSF, PARQUET, REPORT, ocsf_line, report_file, row_of
from kasbah.audit.log.merkle import leaf_hash

Facts = dict[str, Any]
BATCH = 1_000  # rows that become columns together


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an export before its first event. `size` and `root` (hex) are those of the signed tree.

    `signers` are the names of those who signed the checkpoint.

    `selection` is what the manifest says of it; `events` how many there will be. `spool` gives an empty file, for a
    view that grows with the log; the export closes it.
    """

    origin: str
    selection: Facts
    events: int
    size: int
    root: str
    signers: Sequence[str]
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
        yield Made(CSV, self._file)


class OcsfView:
    """views/ocsf.jsonl: each event in the words of OCSF, one line each."""

    def __init__(self, header: Header) -> None:
        self._file = header.spool()

    def add(self, number: int, event: Facts, data: bytes) -> None:
        """Its line."""
        self._file.write(ocsf_line(number, event))

    def finish(self) -> Iterable[Made]:
        """The lines."""
        yield Made(OCSF, self._file)


class ParquetView:
    """views/events.parquet: one row an event, in columns."""

    def __init__(self, header: Header) -> None:
        self._file = header.spool()
        self._table = Table(self._file.write)
        self._rows: list[Row] = []
        self._position = 0

    def add(self, number: int, event: Facts, data: bytes) -> None:
        """Its row."""
        self._rows.append(cells_of(number, event, leaf_hash(data)))
        if len(self._rows) == BATCH:
            self._flush()

    def finish(self) -> Iterable[Made]:
        """The table."""
        self._flush()
        self._table.end()
        yield Made(PARQUET, self._file)

    def _flush(self) -> None:
        self._table.add(grouped(self._position, self._rows), len(self._rows))
        self._position += len(self._rows)
        self._rows = []


class ReportView:
    """report/report.json: what is counted and listed; and a page and a PDF of it in each language."""

    def __init__(self, header: Header) -> None:
        self._log = log_facts(header.origin, header.selection, header.size, header.root, list(header.signers))
        self._tally = Tally()

    def add(self, number: int, event: Facts, data: bytes) -> None:
        """Counted."""
        self._tally.add(number, event)

    def finish(self) -> Iterable[Made]:
        """The facts."""
        yield Made(REPORT, io.BytesIO(report_file(self._tally, self._log)))
        report = self._tally.report(self._log)
        for language in LANGUAGES:
            texts = Texts(language)
            yield Made(f"report/report.{language}.html", io.BytesIO(page(report, texts).encode()))
            yield Made(f"report/report.{language}.pdf", io.BytesIO(document(report, texts)))


class _Utf8:
    """What csv writes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


VIEWS: tuple[Callable[[Header], View], ...] = (CsvView, OcsfView, ParquetView, ReportView)
