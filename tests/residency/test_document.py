"""What people are told about a policy document that cannot be taken."""

from __future__ import annotations

from typing import Any

import pytest

from kasbah.identity.models import DataClass
from kasbah.residency.document import (
    CLASSES,
    MAX_BYTES,
    Classifier,
    Document,
    PolicyInvalid,
    Problem,
    Retention,
    Rule,
    read,
    schema,
)
from kasbah.residency.services import validate
from kasbah.residency.windows import Window

from .documents import allow, deny, document


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_the_example_of_every_field_is_taken() -> None:
    every = document(
        allow(
            tags=["personal"],
            purposes=["support"],
            projects=["01890a5d-ac96-774b-bcce-b302099a8001"],
            jurisdictions=["FR"],
            description="Personal data of the Union stays in France",
        ),
        deny(),
        strictest="confidential",
        content={"internal": "sealed", "public": "commitment"},
        retention={"internal": {"ceiling_days": 30, "floor_days": 1}},
        approval="always",
        classifier={"detect": ["email", "iban"], "tags": ["personal"], "at_least": "confidential"},
        description="données personnelles",
    )
    assert validate(every) == []
    assert read(every).retention["internal"].ceiling_days == 30


WRONG: list[tuple[str, Any, str, str]] = [
    ("not an object", [], "", "not of type 'object'"),
    ("no version", {"rules": []}, "", "version is required"),
    ("other version", {"version": 2, "rules": []}, "/version", "2 is not one of 1"),
    ("misspelt field", document(allow(jurisdiction=["FR"])), "/rules/0/jurisdiction",
     'no such field: "jurisdiction". Known: id'),
    ("misspelt effect", document({**allow(), "effect": "alow"}), "/rules/0/effect", '"alow" is not one of allow, deny'),
    ("no place", document({k: v for k, v in allow().items() if k != "sites"}), "/rules/0", "names sites, juris"),
    ("no models", document({k: v for k, v in allow().items() if k != "models"}), "/rules/0", "models is required"),
    ("empty list", document(deny(sites=[])), "/rules/0/sites", "an empty list would never apply"),
    ("a country that is none", document(deny(jurisdictions=["FR", "UK"])), "/rules/0/jurisdictions", "UK is not a cou"),
    ("small letters", document(deny(jurisdictions=["fr"])), "/rules/0/jurisdictions/0", '"fr" is not the code of a'),
    ("line break at the end", document(deny(sites=["paris\n"])), "/rules/0/sites/0", "is not a name of small"),
    ("id twice", document(allow("a"), allow("b"), deny("a")), "/rules/0/id", "a names 2 rules"),
    ("beyond the strictest", document(allow(data_classes=["secret"]), strictest="internal"), "/rules/0/data_classes",
     "secret is stricter than the strictest class, internal"),
    ("kept without end", document(content={"public": "sealed"}), "/content/public", "needs a retention"),
    ("kept for ever", document(retention={"public": {"ceiling_days": 0}}), "/retention/public/ceiling_days", "minimum"),
    ("kept too long", document(retention={"public": {"ceiling_days": 1, "floor_days": 2}}),
     "/retention/public/floor_days", "longer than it may be"),
    ("an idle classifier", document(classifier={"detect": ["email"]}), "/classifier", "it names tags or at_"),
    ("a classifier beyond", document(strictest="public", classifier={"detect": ["email"], "at_least": "secret"}),
     "/classifier/at_least", "stricter than the strictest class, public"),
    ("no such detector", document(classifier={"detect": ["age"], "tags": ["x"]}), "/classifier/detect/0", "not one of"),
    ("approval by nobody", document(approval="never"), "/approval", "not one of loosening, always"),
    ("a fraction", document(retention={"public": {"ceiling_days": 1.0}}), "", "float has no canonical form"),
    ("too many rules", document(*[deny(f"r{number}") for number in range(1001)]), "/rules", "breaks maxItems: 1000"),
    ("half a letter", document(allow(description="\ud800")), "", "has a value that no policy has"),
    ("control character", document(allow(description="a\0b")), "/rules/0/description", "is not text of one line"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "path", "says"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_problem_points_at_its_place(policy: Any, path: str, says: str) -> None:
    problem = validate(policy)[0]
    assert problem.path == path, problem
    assert says in problem.message


def test_problems_are_all_listed_but_bounded() -> None:
    assert [problem.path for problem in validate(document(deny(sites=[]), deny(models=[])))] == [
        "/rules/0/sites",
        "/rules/1/models",
    ]
    assert len(validate(document(*[deny("A") for _ in range(200)]))) == 50


def test_a_hostile_document_is_refused_by_size_and_depth() -> None:
    assert "over" in only(validate(document(allow(description="x" * MAX_BYTES)))).message
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert "no policy has" in only(validate(nested)).message


def test_the_error_lists_the_first_and_keeps_all() -> None:
    error = PolicyInvalid([Problem(f"/rules/{number}", "is wrong") for number in range(5)])
    assert error.message.startswith("The policy cannot be taken: /rules/0: is wrong; /rules/1")
    assert error.message.endswith("And 2 more.")
    assert (len(error.problems), error.status, error.param) == (5, 400, "document")


def test_the_schema_and_the_structures_name_the_same_fields() -> None:
    published = schema()
    kept = published["properties"]["retention"]["additionalProperties"]
    for described, structure in [
        (published, Document),
        (published["$defs"]["rule"], Rule),
        (published["$defs"]["window"], Window),
        (published["properties"]["classifier"], Classifier),
        (kept, Retention),
    ]:
        assert set(described["properties"]) == set(structure.__struct_encode_fields__)


def test_the_data_classes_are_those_of_keys_and_projects() -> None:
    assert (*DataClass.values,) == CLASSES
    assert tuple(schema()["$defs"]["dataClass"]["enum"]) == CLASSES


@pytest.mark.parametrize(
    "fields",
    [{"strictest": "top"}, {"content": {"public": "all"}}, {"approval": "never"}, {"classifier": {"detect": "email"}}],
)
def test_a_setting_from_a_later_version_is_refused_when_it_is_read(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyInvalid):
        read(document(allow(), **fields))
