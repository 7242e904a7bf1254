"""The report for people: in four languages, escaped, complete in itself."""

from __future__ import annotations

import io
import re
import zipfile
from html import escape
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract
from babel.messages.pofile import read_po

from kasbah.audit.export.report.articles import articles
from kasbah.audit.export.report.texts import LANGUAGES, RIGHT_TO_LEFT, Texts
from tests.audit.bundles import event, signed

HOSTILE = "<script>alert(1)</script>\"'&"
VOID = {"meta"}


class Page(HTMLParser):
    """Checks that what is opened is closed, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    asked: dict[str, Any] = {"model": {"name": HOSTILE, "digest": "ab"}, "details": {"data_class": HOSTILE}}
    denied = {"outcome": "denied", "reason": HOSTILE, "policy": {"id": "p", "version": 1, "rule": HOSTILE}}
    log = signed(
        tmp_path_factory.mktemp("log"),
        [
            event(1, type="inference.denied", **asked, **denied),
            event(2, type="policy.approved", details={"note": HOSTILE}, resource={"type": "policy", "id": HOSTILE}),
            event(3, type="inference.outcome", tokens={"prompt": 1_234_567, "completion": 2}, **asked),
        ],
    )
    with zipfile.ZipFile(io.BytesIO(log.bundle())) as archive:
        return {one: archive.read(f"report/report.{one}.html").decode() for one in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_is_whole_and_has_no_script(pages: dict[str, str], language: str) -> None:
    page = Page(pages[language])
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) >= 6  # as text, wherever the log says it
    root = dict(page.tags)["html"]
    assert root == {"lang": language, "dir": "rtl" if language in RIGHT_TO_LEFT else "ltr"}
    named = {attributes.get("id") for _, attributes in page.tags}
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert {link[1:] for link in links if link.startswith("#")} <= named
    assert all(link.startswith(("#", "https://")) for link in links)
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert not re.search(r"(src|@import|url\()", pages[language])  # nothing is fetched


def test_numbers_and_times_are_written_as_the_language_does(pages: dict[str, str]) -> None:
    assert "1,234,567" in pages["en"]
    assert "1\u202f234\u202f567" in pages["fr"]
    assert "2026年11月1日" in pages["ja"] or "2026/11/01" in pages["ja"]
    assert Texts("en").moment("") == ""


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_text_is_translated(language: str) -> None:
    root = Path(str(resources.files("kasbah")))
    with (root / "audit/export/report/sections.py").open("rb") as source:
        wanted = {str(found[1]) for found in extract("python", source, keywords={"_": None, "gettext": None})}
    wanted |= {one.speaks for one in articles().entries}
    with (root / f"locale/{language}/LC_MESSAGES/django.po").open("rb") as file:
        catalog = read_po(file, locale=language)
    found = {str(one.id): one for one in catalog if one.id}
    assert set(found) == wanted
    for text, one in found.items():
        assert one.string, text
        assert not one.fuzzy, text
        assert sorted(re.findall(r"\{\w+\}", str(one.string))) == sorted(re.findall(r"\{\w+\}", text)), text
    assert not catalog.obsolete


def test_the_articles_say_where_they_are_from(pages: dict[str, str]) -> None:
    table = articles()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table.date)
    assert "This is not legal advice" in pages["en"]
    for one in table.entries:
        assert one.source.startswith("https://")
        assert one.sections
        assert one.read.startswith("https://")
        assert one.read_on <= table.date
        assert f'<a href="{escape(one.source)}" dir="ltr">' in pages["ar"]  # else its marks stand in wrong places
        assert f'<a href="{escape(one.read)}">' in pages["en"]
    secondary = sum(one.text == "secondary" for one in table.entries)
    assert pages["en"].count("Not the text: a secondary source") == secondary > 0
    assert pages["en"].count("A copy of the text") == len(table.entries) - secondary


def test_the_articles_that_the_design_names_are_there() -> None:
    named = {(one.law, one.article) for one in articles().entries}
    wanted = {("AI Act", "12"), ("AI Act", "19"), ("AI Act", "26(6)"), ("GDPR", "5(2)"), ("GDPR", "15"), ("GDPR", "17")}
    wanted |= {("GDPR", "30"), ("42001", "A.6.2.8"), ("42001", "9.1"), ("SecNumCloud", "12.6"), ("SecNumCloud", "12.7")}
    for law, article in wanted | {("09-08", "23"), ("09-08", "25")}:
        assert any(law in title and article == number for title, number in named), (law, article)
