"""report.<language>.html: one page that needs nothing else, no script and no network, and prints well."""

from __future__ import annotations

from html import escape
from typing import Any

from inference_worker.contract.printable import escaped
from kasbah.audit.export.report.sections import (
    Block,
    Cell,
    Heading,
    Link,
    Name,
    Note,
    Paragraph,
    Points,
    Table,
    blocks,
    title,
)
from kasbah.audit.export.report.texts import Texts

Facts = dict[str, Any]
STYLE = """
body{font:15px/1.5 "Noto Sans","Noto Sans Arabic","Noto Sans JP",system-ui,sans-serif;color:#1a1a1a;background:#fff;
max-width:72rem;margin:2rem auto;padding:0 1rem}
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
    named = escape(title(texts))
    body = "".join(_block(one, texts) for one in blocks(report, texts))
    return (
        f'<!DOCTYPE html>\n<html lang="{texts.language}" dir="{texts.direction}">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{named}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{named}</h1>{body}</main></body></html>\n"
    )


def _block(block: Block, texts: Texts) -> str:
    match block:
        case Heading():
            return f'<h2 id="{block.name}">{escape(block.title)}</h2>'
        case Note():
            return f'<p class="note">{escape(block.text)}</p>'
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Points():
            return "<ul>" + "".join(f"<li>{escape(point)}</li>" for point in block.texts) + "</ul>"
        case Table():
            return _table(block, texts)


def _table(table: Table, texts: Texts) -> str:
    titles = "".join(f'<th scope="col">{escape(one)}</th>' for one in table.head)
    head = f"<thead><tr>{titles}</tr></thead>" if titles else ""
    rows = []
    for row in table.rows:
        cells = [_cell(one, texts) for one in row]
        if not table.head:
            cells[0] = f'<th scope="row">{_said(str(row[0]))}</th>'
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"


def _cell(cell: Cell, texts: Texts) -> str:
    match cell:
        case int():
            return f'<td class="n">{texts.number(cell)}</td>'
        case str():
            return f"<td>{_said(cell)}</td>"
        case Name():
            return f"<td>{_code(cell)}</td>"
    return f"<td>{texts.comma.join(_link(one) for one in cell)}</td>"


def _said(text: str) -> str:
    """A text out of the log: HTML's marks and characters that would steer the page are both escaped."""
    return escape(escaped(text))


def _link(link: Link) -> str:
    direction = ' dir="ltr"' if link.bare else ""
    return f'<a href="{escape(link.target)}"{direction}>{escape(link.title)}</a>'


def _code(name: Name) -> str:
    long = ' class="long"' if name.long else ""
    return f'<code dir="ltr"{long}>{_said(name.text)}</code>' if name.text else ""
