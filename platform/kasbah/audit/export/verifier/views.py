"""Views of the events, which are derived from them again."""

from __future__ import annotations

import csv
import hashlib
import io
import struct

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.ocsf import COMPACT, ocsf_text
from kasbah.audit.export.verifier.parquet import Groups, Row, Table, cells_of, grouped
from kasbah.audit.export.verifier.tally import Tally

UNFIT = (AttributeError, TypeError, ValueError, struct.error)  # with which a value fails to be in a column
COLUMNS = ("index", "id", "time", "type", "outcome", "actor", "resource", "reason", "request_id", "site", "worker")
FORMULA = frozenset("=+-@\t\r")
CSV, OCSF, PARQUET, REPORT = "views/events.csv", "views/ocsf.jsonl", "views/events.parquet", "report/report.json"


def row_of(number: int, event: Facts) -> list[str]:
    """One row of views/events.csv; a cell that a spreadsheet would run as a formula gets an apostrophe."""
    actor, resource, said = event.get("actor", {}), event.get("resource", {}), event.get
    cells = (
        str(number),
        str(said("id", "")),
        str(said("time", "")),
        str(said("type", "")),
        str(said("outcome", "")),
        f"{actor.get('kind', '')}:{actor.get('id', '')}",
        f"{resource.get('type', '')}:{resource.get('id', '')}" if resource else "",
        str(said("reason", "")),
        str(said("request_id", "")),
        str(said("site", "")),
        str(said("worker", "")),
    )
    return ["'" + cell if cell[:1] in FORMULA else cell for cell in cells]


def csv_text(rows: list[list[str]]) -> bytes:
    """Lines of views/events.csv."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\r\n").writerows(rows)
    return made.getvalue().encode()


def ocsf_line(number: int, event: Facts) -> bytes:
    """One line of views/ocsf.jsonl."""
    return ocsf_text(number, event).encode() + b"\n"


def report_file(tally: Tally, log: Facts) -> bytes:
    """report/report.json."""
    return COMPACT.encode(tally.report(log)).encode() + b"\n"


class Slice:
    """What events that follow each other give for the views; `position`: of the first in the export.

    After `close` it holds plain values, for another process. Without `wanted` it derives nothing.
    """

    def __init__(self, position: int, wanted: bool) -> None:
        self.wanted = wanted
        self.tally = Tally()
        self.csv = self.ocsf = b""
        self.groups: Groups = {}
        self.rows = 0
        self._position = position
        self._csv: list[list[str]] = []
        self._lines: list[bytes] = []
        self._rows: list[Row] = []

    def add(self, number: int, event: Facts, leaf: bytes) -> None:
        """The next event."""
        if not self.wanted:
            return
        self._csv.append(row_of(number, event))
        self._lines.append(ocsf_line(number, event))
        self._rows.append(cells_of(number, event, leaf))
        self.tally.add(number, event)

    def close(self) -> None:
        """No event follows. Raises Failed when a value is not of its column's type."""
        self.csv, self.ocsf = csv_text(self._csv), b"".join(self._lines)
        rows, self.rows = self._rows, len(self._rows)
        del self._csv, self._lines, self._rows
        self.groups = columns_of(self._position, rows)


def columns_of(position: int, rows: list[Row]) -> Groups:
    """`grouped`, which names the event that does not fit."""
    try:
        return grouped(position, rows)
    except UNFIT as error:
        if len(rows) == 1:
            raise Failed("event_malformed", f"event {rows[0][0]}: {error}") from error
        for row in rows:
            columns_of(0, [row])
        raise


class Derived:
    """The files of the views as they must be: their digests."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._digests = {path: hashlib.sha256() for path in (CSV, OCSF, PARQUET)}
        self._digests[CSV].update(",".join(COLUMNS).encode() + b"\r\n")
        self._table = Table(self._digests[PARQUET].update)

    def take(self, part: Slice) -> None:
        """What follows."""
        self._digests[CSV].update(part.csv)
        self._digests[OCSF].update(part.ocsf)
        self._table.add(part.groups, part.rows)
        self.tally.merge(part.tally)

    def check(self, bundle: Bundle, log: Facts) -> None:
        """Every view that is there says what the log says. `log` is what the report says of the whole log."""
        self._table.end()
        wanted = {path: digest.hexdigest() for path, digest in self._digests.items()}
        wanted[REPORT] = hashlib.sha256(report_file(self.tally, log)).hexdigest()
        for path, digest in wanted.items():
            if path in bundle.infos and bundle.digest(path) != digest:
                raise Failed("view_differs", f"{path} does not say what the log says")
