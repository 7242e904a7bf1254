"""The report as a PDF: the same bytes each time, readable in each language, and harmless whatever the log says."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pypdf
import pytest
import typst

from kasbah.audit.export.report.document import PRINTED, document
from kasbah.audit.export.report.sections import Name, blocks
from kasbah.audit.export.report.setting import TEMPLATE, fonts
from kasbah.audit.export.report.texts import LANGUAGES, Texts
from kasbah.audit.export.verifier.tally import Tally, log_facts
from tests.audit.bundles import event, signed

HOSTILE = '#panic("x") #read("document.py") #import "@preview/x:1.0.0" $x$ *b* [y] <z> \\ /* `'
WORDS = {"en": "Report on an audit log", "fr": "Rapport sur un journal", "ar": "تدقيق", "ja": "監査ログに関する報告書"}
FONTS = {"ar": "IBMPlexSansArabic", "ja": "NotoSansCJKjp"}


def facts(names: str = "qwen", events: int = 3) -> dict[str, Any]:
    """A report of a log in which every name is `names`."""
    tally = Tally()
    for number in range(events):
        tally.add(number, {
            "type": "policy.approved", "time": "2026-11-01T00:00:00.000000Z", "outcome": "success",
            "actor": {"kind": "user", "id": names}, "resource": {"type": "policy", "id": names},
            "details": {"note": names},
        })  # fmt: skip
    return tally.report(log_facts("test/audit/x", {"kind": "range", "by": names}, events, "ab" * 32, ["test/audit/x"]))


def read(data: bytes) -> tuple[str, dict[str, Any]]:
    """The text, as one line of letters without their presentation forms; and the fonts with their programs."""
    reader = pypdf.PdfReader(io.BytesIO(data))
    text = " ".join(page.extract_text() for page in reader.pages)
    used: dict[str, Any] = {}
    for page in reader.pages:
        for font in page["/Resources"]["/Font"].values():  # type: ignore[index]
            inner = font["/DescendantFonts"][0].get_object()["/FontDescriptor"]
            used[inner["/FontName"]] = inner.get("/FontFile2") or inner.get("/FontFile3")
    return " ".join(unicodedata.normalize("NFKC", text).split()), used


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_can_be_read_and_its_fonts_are_in_it(language: str) -> None:
    data = document(facts(), Texts(language))
    text, used = read(data)
    assert WORDS[language] in text or WORDS[language][::-1] in text  # pypdf gives Arabic as it stands on the page
    assert used
    assert all(used.values())
    assert any(FONTS.get(language, "NotoSans") in name for name in used)
    assert pypdf.PdfReader(io.BytesIO(data)).trailer["/Root"]["/Lang"] == language  # type: ignore[index]


def test_the_same_report_gives_the_same_bytes_and_no_time(tmp_path: Path) -> None:
    log = signed(tmp_path, [event(1), event(2)])
    first, second = log.bundle(), log.bundle()
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        for language in LANGUAGES:
            data = archive.read(f"report/report.{language}.pdf")
            assert pypdf.PdfReader(io.BytesIO(data)).metadata.creation_date is None  # type: ignore[union-attr]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_log_says_is_set_as_text(language: str) -> None:
    data = document(facts(HOSTILE), Texts(language))
    text, _ = read(data)
    assert "".join(HOSTILE.split()) in "".join(text.split())
    assert b"/JavaScript" not in data
    assert b"/Launch" not in data


def test_the_hostile_names_would_do_harm_as_markup(tmp_path: Path) -> None:
    template = tmp_path / "x.typ"
    template.write_text(HOSTILE.split(maxsplit=1)[0])
    with pytest.raises(typst.TypstError, match="panicked"):
        typst.compile(template, font_paths=fonts())


def test_the_template_evaluates_reads_and_imports_nothing() -> None:
    code = "\n".join(line for line in TEMPLATE.read_text().splitlines() if not line.startswith("//"))
    assert not [word for word in ("eval", "import", "include", "read(", "plugin", "@", "today") if word in code]


def test_names_that_turn_writing_round_are_shown_by_number() -> None:
    assert Name("a\u202eb\x00\u2066").text == "a\\u202eb\\u0000\\u2066"
    assert Name("日本 عربي é").text == "日本 عربي é"


def test_a_name_that_is_longer_than_a_page_is_not_cut_off() -> None:
    data = document(facts("x" * 9_000 + "END", events=1), Texts("en"))
    assert len(pypdf.PdfReader(io.BytesIO(data)).pages) > 2
    text = "".join(read(data)[0].split())
    assert text.count("END") >= 2  # who, and on what


def test_paper_lists_fewer_events_and_says_so() -> None:
    text, _ = read(document(facts(events=PRINTED + 5), Texts("en")))
    assert f"The first {PRINTED} of {PRINTED + 5} events are listed." in text
    assert len(list(blocks(facts(events=PRINTED + 5), Texts("en")))) < len(
        list(blocks(facts(events=PRINTED + 5), Texts("en"), PRINTED))
    )
