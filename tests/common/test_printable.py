"""Which characters a name may hold, and how others are printed."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata

import pytest

from inference_worker.contract.printable import LineFormatter, escaped, escaped_json, first_unprintable
from kasbah.common import commands, csvs

REFUSED = {
    "escape": "\x1b", "cr": "\r", "lf": "\n", "tab": "\t", "nul": "\0", "delete": "\x7f", "csi": "\x9b", "nel": "\x85",
    "line separator": "\u2028", "paragraph separator": "\u2029", "bom": "\ufeff", "soft hyphen": "\u00ad",
    "lrm": "\u200e", "rlm": "\u200f", "alm": "\u061c", "lre": "\u202a", "rle": "\u202b", "pdf": "\u202c",
    "lro": "\u202d", "rlo": "\u202e", "lri": "\u2066", "rli": "\u2067", "fsi": "\u2068", "pdi": "\u2069",
    "zero width space": "\u200b", "word joiner": "\u2060", "tag": "\U000e0041", "hangul filler": "\u3164",
    "private": "\ue000", "surrogate": "\ud800", "noncharacter": "\uffff", "grapheme joiner": "\u034f",
    "invisible times": "\u2062", "annotation": "\ufff9", "mongolian vowel separator": "\u180e",
}  # fmt: skip
# Names that people have: nothing of them may be refused.
TAKEN = (
    "Banque d'Algérie", "وزارة المالية", "می\u200cخواهم", "نامه\u200cها", "क्\u200dष",  # noqa: RUF001
    "ශ්\u200dරී", "財務省\u3000東京", "葛\U000e0100城",
    "👩\u200d💻 desk", "Ñandú", "한국은행", "ไทย", "e\u0301", "\u0600123", "❤\ufe0f",
)  # fmt: skip
# A joiner between letters that need none can only hide something.
MISUSED = ("ad\u200cmin", "ad\u200dmin", "\u200cadmin", "admin\u200d", "می\u200c", "م\u200c x", "a\u200cم")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_character_that_steers_what_is_shown_is_refused_and_escaped(kind: str) -> None:
    text = f"ab{REFUSED[kind]}c"
    assert first_unprintable(text) == 2
    shown = escaped(text)
    assert REFUSED[kind] not in shown
    assert shown.isprintable()
    assert shown.startswith("ab\\")
    assert first_unprintable(shown) is None


@pytest.mark.parametrize("name", TAKEN)
def test_names_as_people_write_them_are_taken(name: str) -> None:
    assert first_unprintable(name) is None
    assert escaped(name) == name


@pytest.mark.parametrize("name", MISUSED)
def test_a_joiner_where_no_script_needs_one_is_refused(name: str) -> None:
    assert first_unprintable(name) is not None


def test_every_control_and_bidirectional_character_of_unicode_is_refused() -> None:
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        steers = unicodedata.bidirectional(character) in {
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "B", "S",
        }  # fmt: skip
        if steers or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            assert first_unprintable(f"ab{character}c") == 2, hex(point)


def test_a_text_of_lines_may_have_line_ends_and_tabs_and_no_more() -> None:
    assert first_unprintable("a\n\tb\r\nc", lines=True) is None
    assert first_unprintable("a\rb", lines=True) == 1
    assert first_unprintable("a\nb\x85", lines=True) == 3
    assert escaped("a\n\x1b", lines=True) == "a\n\\x1b"


@pytest.mark.parametrize("kind", REFUSED)
def test_json_stays_the_same_document(kind: str) -> None:
    value = {"name": f"a{REFUSED[kind]}b"}
    printed = escaped_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(printed) == value
    assert all(character == "\n" or character.isprintable() for character in printed)


def test_a_value_cannot_forge_a_line_of_a_listing() -> None:
    rows = [{"name": "x\nadmin  active", "state": "revoked\x1b[2K"}, {"name": "y\u202e", "state": "\x9bA"}]
    printed = commands.table(rows, "none")
    assert len(printed.splitlines()) == 3
    assert "\x1b" not in printed
    assert "\x9b" not in printed
    assert "\u202e" not in printed
    facts = commands.lines({"name": "x\nstate  active"})
    assert len(facts.splitlines()) == 1
    assert "\\n" in commands.table([{"name": ["a\nb"], "state": {"k": "c\nd"}}], "none")


def test_the_control_forges_it_when_values_are_printed_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "escaped", lambda text, **_: text)
    assert len(commands.table([{"name": "x\nadmin  active"}], "none").splitlines()) == 3


def test_a_cell_of_a_table_is_escaped_and_no_formula() -> None:
    assert csvs.cell("=1+1") == "'=1+1"
    assert csvs.cell("a\u202eb\x1b") == "a\\u202eb\\x1b"
    assert csvs.cell("\r=1") == "'\\r=1"


def logged(message: str, *words: object, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    handler.handle(
        logging.LogRecord("n", logging.WARNING, "p", 1, message, words, (type(error), error, None) if error else None)
    )
    return stream.getvalue()


def test_a_log_line_cannot_be_forged() -> None:
    line = logged("worker %s", "x\nCRITICAL forged\x1b[2J\u202e")
    assert line == "WARNING worker x\n    CRITICAL forged\\x1b[2J\\u202e\n"
    text = logged("failed", error=ValueError("x\nCRITICAL forged"))
    assert all(each.startswith("    ") for each in text.splitlines()[1:])
