"""report.<language>.html: one page that needs nothing else, no script and no network, and prints well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from kasbah.audit.export.report.articles import articles
from kasbah.audit.export.report.texts import Texts

Facts = dict[str, Any]
WORD = 24  # characters of a name that may stand on one line; a longer one is broken where the column ends
STYLE = """
body{font:15px/1.5 "Noto Sans","Noto Sans Arabic","Noto Sans JP",system-ui,sans-serif;color:#1a1a1a;background:#fff;
max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:2px solid #1a4d6b}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{border:1px solid #767676;padding:.25rem .5rem;text-align:start;vertical-align:top}
thead th{background:#e6eef2}td.n{text-align:end;white-space:nowrap}
code.long{overflow-wrap:anywhere}
code{font-family:"Noto Sans Mono",ui-monospace,monospace;font-size:.85em}
.note{border-inline-start:4px solid #1a4d6b;padding-inline-start:.75rem}
@media print{body{margin:0;max-width:none;font-size:10pt}thead{display:table-header-group}tr,h2{break-inside:avoid}
h2{break-after:avoid}}
"""


def page(report: Facts, texts: Texts) -> str:
    """The report in one language. Everything out of the log is escaped."""
    _ = texts.gettext
    title = _("Report on an audit log")
    body = "".join(
        [
            f"<h1>{escape(title)}</h1>",
            _note(_("This page shows what report.json says, and proves nothing by itself. Check the export with "
                    "verify.py: it derives report.json again from the events.")),
            _log(report, texts),
            _checked(texts),
            _totals(report, texts),
            _requests(report, texts),
            *(_section(name, title, report, texts) for name, title in headings(texts).items()),
            _articles(texts),
            _limits(texts),
        ]
    )  # fmt: skip
    return (
        f'<!DOCTYPE html>\n<html lang="{texts.language}" dir="{texts.direction}">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


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


def _log(report: Facts, texts: Texts) -> str:
    _, log = texts.gettext, report["log"]
    unwitnessed = _("UNWITNESSED: the log's own key alone vouches for it")
    selection = " ".join(f"{name}={value}" for name, value in sorted(log["selection"].items()))
    rows = [
        (_("Log"), _code(log["origin"])),
        (_("Selection"), _code(selection)),
        (_("First event"), escape(texts.moment(report["period"]["first"]))),
        (_("Last event"), escape(texts.moment(report["period"]["last"]))),
        (_("Events in this export"), texts.number(report["events"])),
        (_("Events in the signed log"), texts.number(log["size"])),
        (_("Signed root"), _code(log["root"])),
        (_("Witnesses named on the checkpoint"), _code(", ".join(log["witnesses"])) or escape(unwitnessed)),
    ]
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{value}</td></tr>' for name, value in rows)
    return _heading("log", _("The log")) + f"<table><tbody>{body}</tbody></table>"


def _checked(texts: Texts) -> str:
    _ = texts.gettext
    said = _("While this export was written, its events were hashed again and gave the root that the log's key signed; "
             "otherwise there would be no export. You need not believe that: run verify.py.")  # fmt: skip
    return _heading("verification", _("Verification")) + _note(said)


def _totals(report: Facts, texts: Texts) -> str:
    _ = texts.gettext
    types = [
        [_code(kind), _code(outcome), number]
        for kind, outcomes in sorted(report["types"].items())
        for outcome, number in sorted(outcomes.items())
    ]
    denials = [
        [_code(reason), _code(rule), number]
        for reason, rules in sorted(report["denials"].items())
        for rule, number in sorted(rules.items())
    ]
    return (
        _heading("types", _("Events by type and outcome"))
        + _table([_("Type"), _("Outcome"), _("Events")], types, texts)
        + _heading("denials", _("Denied requests by reason and rule"))
        + _table([_("Reason"), _("Rule"), _("Requests")], denials, texts)
    )


def _requests(report: Facts, texts: Texts) -> str:
    _ = texts.gettext
    columns = {
        "asked": _("Admitted"),
        "denied": _("Denied"),
        "ended": _("Ended"),
        "succeeded": _("Succeeded"),
        "prompt_tokens": _("Prompt tokens"),
        "completion_tokens": _("Answer tokens"),
    }
    parts = []
    for name, title, first in (
        ("models", _("Requests by model"), _("Model")),
        ("sites", _("Requests by site"), _("Site")),
        ("classes", _("Requests by data class"), _("Data class")),
    ):
        shown = [column for column in columns if any(column in row for row in report[name].values())]
        rows = [[_code(one), *(row.get(column, 0) for column in shown)] for one, row in sorted(report[name].items())]
        parts.append(_heading(name, title) + _table([first, *(columns[column] for column in shown)], rows, texts))
    return "".join(parts)


def _section(name: str, title: str, report: Facts, texts: Texts) -> str:
    _, section = texts.gettext, report["sections"][name]
    head = [_("Index"), _("Time"), _("Type"), _("Outcome"), _("Who"), _("On what"), _("Details")]
    rows = [
        [
            one["index"], escape(texts.moment(one["time"])), _code(one["type"]), _code(one["outcome"]),
            _code(one["actor"]), _code(one.get("resource", "")),
            _code(" ".join(f"{key}={value}" for key, value in sorted(one.get("details", {}).items()))),
        ]
        for one in section["listed"]
    ]  # fmt: skip
    more = section["events"] - len(rows)
    left = _("The first {listed} of {events} events are listed.").format(
        listed=texts.number(len(rows)), events=texts.number(section["events"])
    )
    return _heading(name, title) + _table(head, rows, texts) + (_note(left) if more else "")


def _articles(texts: Texts) -> str:
    _ = texts.gettext
    found = articles()
    titles = headings(texts) | {
        "log": _("The log"),
        "verification": _("Verification"),
        "types": _("Events by type and outcome"),
        "denials": _("Denied requests by reason and rule"),
    }
    rows = [
        [
            escape(one.law), escape(one.article), escape(_(one.speaks)),
            ", ".join(f'<a href="#{name}">{escape(titles[name])}</a>' for name in one.sections),
            f'<a href="{escape(one.source)}">{escape(one.source)}</a>',
        ]
        for one in found.entries
    ]  # fmt: skip
    head = [_("Law"), _("Article"), _("What in this export speaks to it"), _("Sections"), _("Source")]
    said = _("This is not legal advice. Version {version} of the table, of {date}.")
    return (
        _heading("articles", _("Articles of law"))
        + _note(said.format(version=found.version, date=found.date))
        + _table(head, rows, texts)
    )


def _limits(texts: Texts) -> str:
    _ = texts.gettext
    points = [
        _("A log does not show that what was never recorded did not happen."),
        _("It does not show that a recorded claim is true; it shows that it was recorded and not changed since."),
    ]
    items = "".join(f"<li>{escape(point)}</li>" for point in points)
    return _heading("limits", _("What this cannot show")) + f"<ul>{items}</ul>"


def _heading(name: str, title: str) -> str:
    return f'<h2 id="{name}">{escape(title)}</h2>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _code(text: str) -> str:
    """A name out of the log; written from left to right in every language."""
    long = ' class="long"' if any(len(word) > WORD for word in text.split("-")) else ""
    return f'<code dir="ltr"{long}>{escape(text)}</code>' if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]], texts: Texts) -> str:
    """Cells that are texts are HTML already; numbers are written as the language does."""
    made = [
        "<tr>"
        + "".join(
            f'<td class="n">{texts.number(one)}</td>' if isinstance(one, int) else f"<td>{one}</td>" for one in row
        )
        + "</tr>"
        for row in rows
    ]
    if not made:
        return "<p>" + escape(texts.gettext("None.")) + "</p>"
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(made)}</tbody></table>"
