"""Articles of law that an export speaks to: data with a version, a date and a source for each. Not legal advice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml


@dataclass(frozen=True, slots=True)
class Article:
    """`speaks`: what in an export speaks to it, in English; `sections`: of the report.

    `source`: where the issuer publishes it; `text`: what was read at the address `read` on the day `read_on`.
    """

    law: str
    article: str
    speaks: str
    sections: list[str]
    source: str
    text: Literal["copy", "secondary"]
    read: str
    read_on: str


@dataclass(frozen=True, slots=True)
class Articles:
    """The table."""

    version: int
    date: str
    entries: list[Article]


@cache
def articles() -> Articles:
    """The table as it ships."""
    text = resources.files("kasbah.audit.export.report").joinpath("articles.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    return Articles(data["version"], data["date"], [Article(**one) for one in data["entries"]])
