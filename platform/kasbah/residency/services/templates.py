"""Ready-made policies to start from, each with the sources of the law that it is about."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kasbah.common.errors import NotFound
from kasbah.residency.text import parse

FOLDER = Path(__file__).parents[1] / "templates"
SOURCES = "sources"  # the file that says where the others come from
NOTICE = (
    "A starting point, not legal advice. It shows how rules of this law can be written as a policy; it is no statement"
    " of what the law demands of you, and no proof that you comply."
)


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was read, when, and what it shows; `official`: by who made the law, or who oversees it."""

    text: str
    official: bool
    date: date
    shows: str


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text that a template is about; `reference` is what it is found under, `date` its own, `seen` what was read."""

    title: str
    articles: str
    reference: str
    date: date
    seen: tuple[Seen, ...]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file of sources says of a template."""

    title: str
    summary: str
    reviewed: date
    review_by: date
    sources: tuple[Source, ...]


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A template: `text` is the policy as it can be edited and added, with comments; `document` is what it says."""

    name: str
    title: str
    summary: str
    reviewed: date
    review_by: date
    sources: tuple[Source, ...]
    text: str
    document: dict[str, Any]
    notice: str = NOTICE


@cache
def policy_templates() -> tuple[Template, ...]:
    """All of them, by name."""
    entries, _ = parse((FOLDER / f"{SOURCES}.yaml").read_text(encoding="utf-8"), name="list of sources")
    return tuple(_template(name, entry) for name, entry in sorted(msgspec.convert(entries, dict[str, _Entry]).items()))


def policy_template(name: str) -> Template:
    """One of them. Raises NotFound."""
    for template in policy_templates():
        if template.name == name:
            return template
    known = ", ".join(template.name for template in policy_templates())
    raise NotFound(f"There is no template {name}. Known: {known}.")


def _template(name: str, entry: _Entry) -> Template:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return Template(
        name=name,
        title=entry.title,
        summary=entry.summary,
        reviewed=entry.reviewed,
        review_by=entry.review_by,
        sources=entry.sources,
        text=text,
        document=parse(text, name=name)[0],
    )
