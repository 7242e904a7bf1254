"""The policies to start from: each is one, decides as its table says, and says where it comes from."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from kasbah.common.errors import NotFound
from kasbah.residency.document import validate
from kasbah.residency.services import SiteFact, compile_policy, decide, decide_raised
from kasbah.residency.services.classification import raised
from kasbah.residency.services.templates import FOLDER, NOTICE, SOURCES, Template, policy_template, policy_templates
from kasbah.residency.text import parse

from .documents import ask

PLACES = ("FR", "DE", "NO", "CH", "MA", "JP", "AE", "US")
SITES = tuple(SiteFact(UUID(int=number), place.lower(), place) for number, place in enumerate(PLACES, 1))
EVERYWHERE = set(PLACES)
UNION, EEA = {"FR", "DE"}, {"FR", "DE", "NO"}

# Template, class that the request names, its tags, and where it may be processed.
TABLE: list[tuple[str, str, tuple[str, ...], set[str]]] = [
    ("european-union", "public", (), EVERYWHERE),
    ("european-union", "public", ("personal",), EEA),
    ("european-union", "internal", (), EEA),
    ("european-union", "confidential", ("personal",), EEA),
    ("european-union", "", (), EEA),
    ("european-union", "confidential", ("personal", "special-category"), set()),
    ("european-union", "secret", (), set()),
    ("france", "public", (), UNION),
    ("france", "internal", ("personal",), UNION),
    ("france", "confidential", ("personal",), {"FR"}),
    ("france", "secret", (), {"FR"}),
    ("france", "", (), {"FR"}),
    ("france", "confidential", ("health",), set()),
    *(
        row
        for name, place, special in (
            ("morocco", "MA", "sensitive"),
            ("japan", "JP", "special-care"),
            ("united-arab-emirates", "AE", "health"),
        )
        for row in (
            (name, "public", (), EVERYWHERE),
            (name, "public", ("personal",), {place}),
            (name, "internal", (), {place}),
            (name, "confidential", ("personal",), {place}),
            (name, "", (), {place}),
            (name, "confidential", (special,), set()),
            (name, "secret", (), set()),
        )
    ),
]


def allowed(name: str, data_class: str, tags: tuple[str, ...], found: dict[str, int] | None = None) -> set[str]:
    policy = compile_policy(policy_template(name).document)
    question = ask(data_class=data_class, tags=tags, sites=SITES)
    compliant = set(decide_raised(policy, question, raised(question, policy, found or {})).sites)
    return {site.jurisdiction for site in SITES if site.id in compliant}


@pytest.mark.parametrize(("name", "data_class", "tags", "expected"), TABLE)
def test_decisions(name: str, data_class: str, tags: tuple[str, ...], expected: set[str]) -> None:
    assert allowed(name, data_class, tags) == expected


def test_the_table_is_about_all_of_them() -> None:
    names = [template.name for template in policy_templates()]
    assert {row[0] for row in TABLE} == set(names)
    assert names == ["european-union", "france", "japan", "morocco", "united-arab-emirates"]
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {*names, SOURCES}


@pytest.mark.parametrize("template", policy_templates(), ids=lambda template: template.name)
def test_each_is_a_policy_that_stays_at_home_with_what_is_found(template: Template) -> None:
    assert validate(template.document) == []
    home = {"european-union": EEA, "france": {"FR"}, "morocco": {"MA"}, "japan": {"JP"}, "united-arab-emirates": {"AE"}}
    assert allowed(template.name, "public", (), {"iban": 1}) == home[template.name]
    assert allowed(template.name, "public", ()) > home[template.name]  # the control: it is the finding that does it


def test_the_guide_says_of_which_no_official_text_was_seen() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "administrator" / "templates.md").read_text()
    for template in policy_templates():
        official = any(seen.official for source in template.sources for seen in source.seen)
        [line] = re.findall(rf"^\| `{template.name}` \| (something|nothing) official", guide, re.MULTILINE)
        assert (line == "something") is official


@pytest.mark.parametrize("template", policy_templates(), ids=lambda template: template.name)
def test_each_says_what_it_is_and_where_it_comes_from(template: Template) -> None:
    assert template.text.startswith("# A STARTING POINT, NOT LEGAL ADVICE.")
    assert "not legal advice" in template.document["description"]
    assert "not legal advice" in NOTICE
    assert template.sources
    for source in template.sources:
        assert source.reference
        assert source.date < template.reviewed
        assert re.search(r"\d", source.articles)
        year = str(source.date.year)
        assert year in source.title + source.reference + str(source.date)
        assert source.seen
        assert all(seen.date > source.date and seen.shows for seen in source.seen)
    assert timedelta(0) < template.review_by - template.reviewed <= timedelta(days=366)


@pytest.mark.parametrize("template", policy_templates(), ids=lambda template: template.name)
def test_the_rule_that_is_left_out_is_one_once_its_site_is_named(template: Template) -> None:
    text = re.sub(r"(?m)^  # (- id|  [a-z_]+:)", r"  \1", template.text).replace("YOUR-SITE", "fr")
    document = parse(text)[0]
    assert len(document["rules"]) == len(template.document["rules"]) + 1
    assert validate(document) == []
    special = document["rules"][-1]
    decision = decide(
        compile_policy(document), ask(data_class="confidential", tags=tuple(special["tags"]), sites=SITES)
    )
    assert decision.sites == (SITES[0].id,)
    untouched = parse(re.sub(r"(?m)^  # (- id|  [a-z_]+:)", r"  \1", template.text))[0]
    assert validate(untouched) != []  # whoever forgets to name a site is told


def test_what_is_not_there() -> None:
    with pytest.raises(NotFound, match="Known: european-union, france"):
        policy_template("atlantis")
