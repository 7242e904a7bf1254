"""What the report for people says, in order: written once, rendered as a page (page.py) and a PDF (document.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kasbah.audit.export.report.articles import articles
from kasbah.audit.export.report.texts import Texts
from kasbah.audit.export.verifier.tally import LISTED

Facts = dict[str, Any]
# Control characters, and those that change the direction of what follows (Unicode, UAX 9): a name with one of them
# could be read as another name.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
WORD = 24  # characters of a name that may stand on one line; a longer one is broken where the column ends


@dataclass(frozen=True, slots=True)
class Name:
    """Something out of the log: from left to right in every language; what would turn that round is shown by number."""

    said: str

    @property
    def text(self) -> str:
        """What is shown."""
        return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", self.said)

    @property
    def long(self) -> bool:
        """Whether it may be broken anywhere."""
        return any(len(word) > WORD for word in self.text.split("-"))


@dataclass(frozen=True, slots=True)
class Link:
    """To a section of the report (`#name`), or elsewhere."""

    target: str
    title: str

    @property
    def bare(self) -> bool:
        """Whether the address itself is shown: from left to right in every language."""
        return self.title == self.target


Cell = str | int | Name | Sequence[Link]


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a section; `name` is what links name."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph that stands out."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One that does not."""

    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list of sentences."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """`head` names the columns; without it, the first cell of each row names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


Block = Heading | Note | Paragraph | Points | Table


def title(texts: Texts) -> str:
    """Of the whole report."""
    _ = texts.gettext
    return _("Report on an audit log")


def blocks(report: Facts, texts: Texts, most: int = LISTED) -> Iterator[Block]:
    """The report in one language; each section lists its first `most` events."""
    _ = texts.gettext
    yield Note(_("This page shows what report.json says, and proves nothing by itself. Check the export with "
                 "verify.py: it derives report.json again from the events."))  # fmt: skip
    yield from _log(report, texts)
    yield from _checked(texts)
    yield from _totals(report, texts)
    yield from _requests(report, texts)
    for name, heading in headings(texts).items():
        yield from _section(name, heading, report["sections"][name], texts, most)
    yield from _articles(texts)
    yield from _limits(texts)


def headings(texts: Texts) -> dict[str, str]:
    """What the sections with events are called."""
    _ = texts.gettext
    return {
        "policies": _("Policy changes"),
        "approvals": _("Approvals"),
        "erasures": _("Erasures"),
        "holds": _("Legal holds"),
        "prunings": _("Prunings"),
        "exports": _("Exports"),
        "reads": _("Reads of the audit log and of content"),
        "keys": _("Keys"),
        "interventions": _("Interventions and alarms"),
    }


def _log(report: Facts, texts: Texts) -> Iterator[Block]:
    _, log = texts.gettext, report["log"]
    unwitnessed = _("UNWITNESSED: the log's own key alone vouches for it")
    selection = " ".join(f"{name}={value}" for name, value in sorted(log["selection"].items()))
    rows: list[tuple[str, Cell]] = [
        (_("Log"), Name(log["origin"])),
        (_("Selection"), Name(selection)),
        (_("First event"), texts.moment(report["period"]["first"])),
        (_("Last event"), texts.moment(report["period"]["last"])),
        (_("Events in this export"), texts.number(report["events"])),
        (_("Events in the signed log"), texts.number(log["size"])),
        (_("Signed root"), Name(log["root"])),
        (
            _("Witnesses named on the checkpoint"),
            Name(", ".join(log["witnesses"])) if log["witnesses"] else unwitnessed,
        ),
    ]
    yield Heading("log", _("The log"))
    yield Table([], rows)


def _checked(texts: Texts) -> Iterator[Block]:
    _ = texts.gettext
    yield Heading("verification", _("Verification"))
    yield Note(_("While this export was written, its events were hashed again and gave the root that the log's key "
                 "signed; otherwise there would be no export. You need not believe that: run verify.py."))  # fmt: skip


def _totals(report: Facts, texts: Texts) -> Iterator[Block]:
    _ = texts.gettext
    yield Heading("types", _("Events by type and outcome"))
    yield _table([_("Type"), _("Outcome"), _("Events")], _pairs(report["types"]), texts)
    yield Heading("denials", _("Denied requests by reason and rule"))
    yield _table([_("Reason"), _("Rule"), _("Requests")], _pairs(report["denials"]), texts)


def _pairs(counted: Facts) -> list[list[Cell]]:
    return [
        [Name(first), Name(second), number]
        for first, seconds in sorted(counted.items())
        for second, number in sorted(seconds.items())
    ]


def _requests(report: Facts, texts: Texts) -> Iterator[Block]:
    _ = texts.gettext
    columns = {
        "asked": _("Admitted"),
        "denied": _("Denied"),
        "ended": _("Ended"),
        "succeeded": _("Succeeded"),
        "prompt_tokens": _("Prompt tokens"),
        "completion_tokens": _("Answer tokens"),
    }
    for name, heading, first in (
        ("models", _("Requests by model"), _("Model")),
        ("sites", _("Requests by site"), _("Site")),
        ("classes", _("Requests by data class"), _("Data class")),
    ):
        shown = [column for column in columns if any(column in row for row in report[name].values())]
        rows = [[Name(one), *(row.get(column, 0) for column in shown)] for one, row in sorted(report[name].items())]
        yield Heading(name, heading)
        yield _table([first, *(columns[column] for column in shown)], rows, texts)


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]], texts: Texts) -> Block:
    _ = texts.gettext
    return Table(head, rows) if rows else Paragraph(_("None."))


def _section(name: str, heading: str, section: Facts, texts: Texts, most: int) -> Iterator[Block]:
    _ = texts.gettext
    head = [_("Index"), _("Time"), _("Type"), _("Outcome"), _("Who"), _("On what"), _("Details")]
    rows: list[list[Cell]] = [
        [
            one["index"], texts.moment(one["time"]), Name(one["type"]), Name(one["outcome"]),
            Name(one["actor"]), Name(one.get("resource", "")),
            Name(" ".join(f"{key}={value}" for key, value in sorted(one.get("details", {}).items()))),
        ]
        for one in section["listed"][:most]
    ]  # fmt: skip
    yield Heading(name, heading)
    yield _table(head, rows, texts)
    left = _("The first {listed} of {events} events are listed.")
    if section["events"] > len(rows):
        yield Note(left.format(listed=texts.number(len(rows)), events=texts.number(section["events"])))


def _articles(texts: Texts) -> Iterator[Block]:
    _ = texts.gettext
    found = articles()
    titles = headings(texts) | {
        "log": _("The log"),
        "verification": _("Verification"),
        "types": _("Events by type and outcome"),
        "denials": _("Denied requests by reason and rule"),
        "models": _("Requests by model"),
        "sites": _("Requests by site"),
        "classes": _("Requests by data class"),
    }
    read = {"copy": _("A copy of the text, on {date}"), "secondary": _("Not the text: a secondary source, on {date}")}
    rows: list[list[Cell]] = [
        [
            one.law, Name(one.article), _(one.speaks), [Link(f"#{name}", titles[name]) for name in one.sections],
            [Link(one.source, one.source)], [Link(one.read, read[one.text].format(date=texts.day(one.read_on)))],
        ]
        for one in found.entries
    ]  # fmt: skip
    said = _("This is not legal advice. Version {version} of the table, of {date}.")
    yield Heading("articles", _("Articles of law"))
    yield Note(said.format(version=found.version, date=texts.day(found.date)))
    yield Table(
        [
            _("Law"), _("Article"), _("What in this export speaks to it"), _("Sections"), _("Source"),
            _("What was read for this table"),
        ],
        rows,
    )  # fmt: skip


def _limits(texts: Texts) -> Iterator[Block]:
    _ = texts.gettext
    yield Heading("limits", _("What this cannot show"))
    yield Points(
        [
            _("A log does not show that what was never recorded did not happen."),
            _("It does not show that a recorded claim is true; it shows that it was recorded and not changed since."),
        ]
    )
