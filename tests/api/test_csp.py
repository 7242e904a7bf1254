"""Every answer has a Content-Security-Policy, and the pages keep to theirs: nothing inline, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client

from kasbah.common import csp

pytestmark = pytest.mark.django_db


class Page(HTMLParser):
    """What a page loads, and what of it is inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [f"{tag} {name}" for name in given if name.startswith("on")]
        for name in ("src", "href"):
            if tag in {"script", "link", "img"} and (address := given.get(name)):
                self.loads.append(address)
        runs = tag == "script" and given.get("type", "") != "application/json"
        self._open = tag if tag == "style" or (runs and "src" not in given) else ""

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.inline.append(f"<{self._open}> {data.strip()[:40]}")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


@pytest.mark.parametrize("path", ["/", "/api/schema/", "/api/me/", "/api/nothing/", "/nothing", "/api/session/"])
def test_data_may_load_nothing(path: str) -> None:
    answer = Client().get(path)
    assert answer.headers[csp.HEADER] == csp.DATA
    assert not answer.headers["content-type"].startswith("text/html")


def test_the_documentation_page_needs_no_exception() -> None:
    client = Client()
    answer = client.get("/api/docs/", headers={"accept": "text/html"})
    page = Page(answer.content.decode())
    assert (answer.status_code, answer.headers[csp.HEADER], page.inline) == (200, csp.PAGE, [])
    assert "unsafe" not in csp.PAGE
    assert len(page.loads) == 6
    for address in page.loads:
        assert re.match(r"/[^/]", address), address
        loaded = client.get(address)
        loaded.close()
        assert (loaded.status_code, loaded.headers[csp.HEADER]) == (200, csp.DATA), address
        assert loaded.headers["x-content-type-options"] == "nosniff"
    script = client.get(page.loads[-1])
    assert script.headers["content-type"].startswith("application/javascript")
    assert b"SwaggerUIBundle" in script.content


def test_the_browsable_api_runs_nothing_inline(root: Any) -> None:
    answer = root.get("/api/me/", headers={"accept": "text/html"})
    page = Page(answer.content.decode())
    assert answer.headers["content-type"].startswith("text/html")
    assert (answer.headers[csp.HEADER], page.inline) == (csp.PAGE, [])


def test_the_usual_page_would_break_its_policy() -> None:
    """Control: the page that drf-spectacular ships has a script and a style of its own."""
    from django.template.loader import render_to_string

    found = Page(
        render_to_string("drf_spectacular/swagger_ui.html", {"template_name_js": "drf_spectacular/swagger_ui.js"})
    )
    assert {text.split()[0] for text in found.inline} == {"<style>", "<script>"}
