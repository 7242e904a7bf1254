"""Views of the events, which are derived from them again."""

from __future__ import annotations

import io

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.failure import Facts, Failed

COLUMNS = ("index", "id", "time", "type", "outcome", "actor", "resource", "reason", "request_id", "site", "worker")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_of(number: int, event: Facts) -> list[str]:
    """One row of views/events.csv; a cell that a spreadsheet would run as a formula gets an apostrophe."""
    actor, resource = event.get("actor", {}), event.get("resource", {})
    plain = {
        "index": str(number),
        "actor": f"{actor.get('kind', '')}:{actor.get('id', '')}",
        "resource": f"{resource.get('type', '')}:{resource.get('id', '')}" if resource else "",
    }
    cells = [plain[name] if name in plain else str(event.get(name, "")) for name in COLUMNS]
    return ["'" + cell if cell.startswith(FORMULA) else cell for cell in cells]


class View:
    """views/events.csv, derived again while the events are read."""

    def __init__(self, bundle: Bundle) -> None:
        self.lines: io.TextIOWrapper | None = None
        if "views/events.csv" in bundle.infos:
            self.lines = io.TextIOWrapper(bundle.open("views/events.csv"), encoding="utf-8", newline="")
            self.expect(",".join(COLUMNS) + "\r\n", "the head")

    def expect(self, text: str, what: str) -> None:
        """The next rows."""
        if self.lines is not None and self.lines.read(len(text)) != text:
            raise Failed("view_differs", f"views/events.csv does not say what the log says ({what})")

    def end(self) -> None:
        """Nothing may follow."""
        if self.lines is not None and self.lines.read(1):
            raise Failed("view_differs", "views/events.csv has more rows than the log has events")
