"""report.<language>.pdf: the same as the page, for printing and keeping; its fonts are in it, and no network is used.

Typst sets it. What comes out of the log reaches it as data (JSON), never as its markup: see report.typ.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from inference_worker.contract.printable import escaped
from kasbah.audit.export.report.sections import (
    Block,
    Cell,
    Heading,
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
PATIENCE = 120.0  # seconds for one document; the largest takes about one
PRINTED = 100  # events that a section lists on paper; the page and report.json list more, and all are counted


def document(report: Facts, texts: Texts) -> bytes:
    """The report in one language. The same report gives the same bytes."""
    said = {
        "title": title(texts),
        "language": texts.language,
        "rtl": texts.direction == "rtl",
        "blocks": [_block(one, texts) for one in blocks(report, texts, PRINTED)],
    }
    program = Path(__file__).with_name("setting.py")
    done = subprocess.run(
        [sys.executable, "-I", str(program)],
        input=json.dumps(said).encode(),
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout


def _block(block: Block, texts: Texts) -> Facts:
    match block:
        case Heading():
            return {"kind": "heading", "name": block.name, "title": block.title}
        case Note():
            return {"kind": "note", "text": block.text}
        case Paragraph():
            return {"kind": "paragraph", "text": block.text}
        case Points():
            return {"kind": "points", "texts": list(block.texts)}
        case Table():
            rows = [[_cell(one, texts) for one in row] for row in block.rows]
            return {"kind": "table", "head": list(block.head), "rows": rows}


def _cell(cell: Cell, texts: Texts) -> Facts:
    match cell:
        case int():
            return {"kind": "number", "text": texts.number(cell)}
        case str():
            return {"kind": "text", "text": escaped(cell)}
        case Name():
            return {"kind": "name", "text": escaped(cell.text), "long": cell.long}
    links = [{"target": one.target, "title": one.title, "bare": one.bare} for one in cell]
    return {"kind": "links", "links": links, "comma": texts.comma}
