"""Policies as people write them: both notations give one document, and what is wrong is found by its line."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.residency.document import MAX_BYTES, PolicyInvalid, Problem
from kasbah.residency.text import parse, validate_text

from .documents import allow, document, rules

POLICY = """\
# Who may process what.
version: 1
strictest: confidential
rules:
  - id: norway-by-day
    effect: allow
    data_classes: [internal]
    models: ["*"]
    jurisdictions:
      - NO   # not false
      - FR
    windows:
      - {from: 08:00, to: 18:00, zone: Europe/Oslo, not_before: 2026-01-01T00:00:00Z}
content: {internal: sealed}
retention:
  internal: {floor_days: 010, ceiling_days: 30}
"""


def refused(text: str) -> Problem:
    """The one thing that is wrong with a text that cannot be read."""
    with pytest.raises(PolicyInvalid) as caught:
        parse(text)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_yaml_means_what_it_looks_like() -> None:
    policy, _ = parse(POLICY)
    assert policy["rules"][0]["jurisdictions"] == ["NO", "FR"]
    assert policy["rules"][0]["windows"][0] == {
        "from": "08:00",
        "to": "18:00",
        "zone": "Europe/Oslo",
        "not_before": "2026-01-01T00:00:00Z",
    }
    assert policy["retention"]["internal"] == {"floor_days": 10, "ceiling_days": 30}
    assert validate_text(POLICY) == (policy, [])
    # The surprise that is avoided: the usual loader makes a country false and an hour a number.
    assert yaml.safe_load(POLICY)["rules"][0]["jurisdictions"] == [False, "FR"]
    assert yaml.safe_load("at: 18:00")["at"] == 1080


@pytest.mark.parametrize(
    ("written", "value"),
    [("NO", "NO"), ("off", "off"), ("yes", "yes"), ("y", "y"), ("true", True), ("False", False), ("~", None),
     ("", None), ("12", 12), ("-3", -3), ("1_000", "1_000"), ("0x1F", "0x1F"), ("0o7", "0o7"), ("22:22", "22:22"),
     ("2026-01-01", "2026-01-01"), ("'12'", "12"), ('"true"', "true"), ("<<", "<<"), ("=", "="), ("१२", "१२")],
)  # fmt: skip
def test_only_the_words_of_the_core_schema_are_more_than_text(written: str, value: object) -> None:
    found = parse(f"a: {written}")[0]["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_problem_names_the_line_of_the_value() -> None:
    found = [str(problem) for problem in validate_text(POLICY.replace("- FR", "- france"))[1]]
    says = '"france" is not the code of a country, two capital letters such as FR, or "*"'
    assert found == [f"line 11: /rules/0/jurisdictions/1: {says}"]
    lines = [
        ("strictest: confidential", "strictest: confidental", 3),
        ("models:", "modells:", 8),
        ("effect: allow", "effect: alow", 6),
        ("18:00", "25:00", 13),
        ("Europe/Oslo", "Europe/Bergen", 13),
        ("ceiling_days: 30", "ceiling_days: 3", 16),
        ("jurisdictions:\n      - NO   # not false\n      - FR", "jurisdictions: []", 9),
        ("    data_classes: [internal]\n", "", 5),
    ]
    for old, new, line in lines:
        assert POLICY.count(old) == 1
        assert line in {problem.line for problem in validate_text(POLICY.replace(old, new))[1]}, new


def test_json_has_lines_too() -> None:
    text = json.dumps(document(allow(sites=["paris", "Rabat"])), indent="\t")
    found, problems = validate_text(text)
    assert found == json.loads(text)
    assert [(problem.path, problem.line) for problem in problems] == [("/rules/0/sites/1", 15)]
    assert "Rabat" in text.splitlines()[14]


HOSTILE = [
    ("an anchor", "version: &a 1\nrules: []", "/version", 1, "anchors"),
    ("an alias", "a: 1\nb: *a", "/b", 2, "aliases"),
    ("a bomb", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "/a", 1, "anchors"),
    ("an object", "a: !!python/object/apply:os.system [ls]", "/a", 1, "tags"),
    ("a tag", "a: !!str 1", "/a", 1, "tags"),
    ("a bang", "a: ! 1", "/a", 1, "tags"),
    ("a tagged key", "!!str a: 1", "", 1, "tags"),
    ("a directive", "%YAML 1.1\n---\na: 1", "", 1, "directives"),
    ("two documents", "a: 1\n---\nb: 1", "", 2, "second document"),
    ("a key twice", "rules: []\nversion: 1\nrules: []", "/rules", 3, "twice"),
    ("a key twice, otherwise written", 'a: 1\n"\\u0061": 2', "/a", 2, "twice"),
    ("a number as a key", "1: a", "", 1, "not text"),
    ("a truth as a key", "true: a", "", 1, "not text"),
    ("a list as a key", "? [a]\n: b", "", 1, "not text"),
    ("a fraction", "a: 1.0", "/a", 1, "whole number"),
    ("no number", "a: .nan", "/a", 1, "whole number"),
    ("an endless number", "a: " + "9" * 100_000, "/a", 1, "18 digits"),
    ("a list", "- a", "", 1, "must be a mapping"),
    ("nothing", "# nothing", "", 1, "it is empty"),
    ("unclosed", "a: [1\nb: 2", "", 2, "not YAML, column 2"),
    ("a tab", "a:\n\t- b", "", 2, "not YAML"),
    ("a control character", "a: \x07", "", 0, "not YAML"),
    ("deep", "a: " + "[" * 100_000, "/a" + "/0" * 19, 1, "levels deep"),
    ("deep JSON", '{"a": ' + "[" * 100_000, "/a" + "/0" * 19, 1, "levels deep"),
    ("JSON twice", '{"a": 1,\n"a": 2}', "/a", 2, "twice"),
    ("JSON fraction", '{\n"a": 1e3}', "/a", 2, "whole number"),
    ("JSON no number", '{"a": NaN}', "", 1, "not JSON, column 7: a value is expected"),
    ("JSON comma", '{"a": 1,\n}', "", 2, "not JSON, column 1: a name in double quotes"),
    ("JSON list comma", '{"a": [1,]}', "", 1, "a value is expected"),
    ("JSON unclosed", '{"a": [1', "", 1, "a comma or ] is expected"),
    ("JSON quote", '{"a": "b', "", 1, "Unterminated string"),
    ("JSON line break in text", '{"a": "b\n"}', "", 1, "Invalid control character"),
    ("JSON colon", '{"a" 1}', "", 1, "a colon"),
    ("JSON more", "{} {}", "", 1, "something follows"),
    ("JSON list", "[]", "", 1, "must be a mapping"),
    ("YAML in braces", "{a: 1}", "", 1, "not JSON"),
]


@pytest.mark.parametrize(
    ("text", "path", "line", "says"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_what_hides_or_multiplies_content_is_refused(text: str, path: str, line: int, says: str) -> None:
    problem = refused(text)
    assert (problem.path, problem.line) == (path, line), problem
    assert says in problem.message
    assert validate_text(text) == (None, [problem])


def test_size_is_bounded_and_what_fits_is_read_in_time() -> None:
    assert "over" in refused("a: " + "x" * MAX_BYTES).message
    assert "the plan is over" in str(_error("é" * MAX_BYTES, name="plan"))
    for text in ("a:\n" + "- b\n" * (MAX_BYTES // 16), '{"a":[' + "1," * (MAX_BYTES // 8) + "1]}"):
        started = time.process_time()
        assert len(parse(text)[0]["a"]) > 60_000
        assert time.process_time() - started < 5


def _error(text: str, **options: Any) -> PolicyInvalid:
    with pytest.raises(PolicyInvalid) as caught:
        parse(text, **options)
    return caught.value


# PyYAML writes texts such as 0E0 without quotes, as YAML 1.1 has it; to us, as in YAML 1.2, they would be numbers.
FLOAT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(
    lambda text: not FLOAT.fullmatch(text)
)
WORDS = PLAIN | st.sampled_from(
    ["NO", "no", "12", "1.5", "~", "null", "true", "08:00", "*", "&a", "!x", "#", "- a", "a: b", "", " ", "é/~1", "😀"]
)
DOCUMENTS = st.dictionaries(
    WORDS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**17), 10**17) | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
)


@given(DOCUMENTS | rules().map(lambda found: document(*found)), st.sampled_from([None, 2, "\t"]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_document_survives_both_notations(value: dict[str, Any], indent: Any, flow: bool) -> None:
    as_json, lines = parse(json.dumps(value, indent=indent, ensure_ascii=flow))
    style: dict[str, Any] = {"default_flow_style": None if flow else False, "explicit_start": True, "sort_keys": False}
    as_yaml, _ = parse(yaml.safe_dump(value, allow_unicode=True, **style))
    assert repr(as_json) == repr(as_yaml) == repr(value)  # 1 is not true here
    assert lines.line("") == 1
    assert lines.line("/nowhere/at all") == 1
