"""The classifier: what it finds, what it leaves alone, and that it can only make a decision stricter."""

# ruff: noqa: RUF001 - full-width characters are what these texts are about

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.residency.classification import looking
from kasbah.residency.classification.text import normal
from kasbah.residency.document import CLASSES, validate
from kasbah.residency.services import compile_policy, decide, decide_raised
from kasbah.residency.services.classification import LONGEST, UNREAD, look, raised, summary, text_of

from .documents import LYON, PARIS, RABAT, TAGS, allow, ask, document, questions, rules
from .samples import KINDS, quality


def find(text: str, *detect: str) -> dict[str, int]:
    return look(normal(text), detect or KINDS)


FOUND = [
    ("email", "mailto:Ada.Lovelace+news@example.org"),
    ("email", "メールはtaro@example.co.jpまで"),
    ("email", "ｔａｒｏ＠example．jp"),
    ("email", "راسلنا على info@مثال.إمارات"),
    ("phone", "+33 (0)6 12 34 56 78"),
    ("phone", "Tél.: 06.12.34.56.78"),
    ("phone", "0033 6 12 34 56 78"),
    ("phone", "الهاتف ٠٦١٢٣٤٥٦٧٨"),
    ("phone", "電話(03) 1234-5678"),
    ("phone", "携帯０９０ー１２３４ー５６７８"),
    ("phone", "call 050 123 4567 or"),
    ("phone", "+44 7400 123456"),
    ("iban", "FR76 3000 6000 0112 3456 7890 189"),
    ("iban", "gb29nwbk60161331926819"),
    ("iban", "IBAN:AE070331234567890123456."),
    ("payment-card", "4111 1111 1111 1111"),
    ("payment-card", "12 3782-822463-10005"),
    ("payment-card", "4111\u00a01111\u20091111\u202f1111"),
    ("payment-card", "4\u200b1\u00ad11 1111 1111 1111"),
    ("payment-card", '{"card":"\\u0034111111111111111"}'),
    ("national-id", "NIR 2 95 10 99 126 111 93"),
    ("national-id", "253072B07300470"),
    ("national-id", "n° de sécu 2 95 10 99 126 111"),
    ("national-id", "CIN : AB123456"),
    ("national-id", "رقم البطاقة الوطنية BK98765"),
    ("national-id", "ICE 001561191000066"),
    ("national-id", "マイナンバーは６２１４９８３２０２５７です"),
    ("national-id", "6214 9832 0257"),
    ("national-id", "784-1990-1234567-1"),
    ("national-id", "Steuer-ID 36 574 261 809"),
    ("national-id", "DNI 12345678Z"),
    ("national-id", "X1234567L"),
    ("national-id", "RSSMRA 85T10 A562S"),
    ("national-id", "85.07.30-033.28"),
    ("national-id", "131052-308T"),
    ("national-id", "BSN 111222333"),
    ("national-id", "756.9217.0769.85"),
]


@pytest.mark.parametrize(("kind", "text"), FOUND, ids=[f"{kind} {number}" for number, (kind, _) in enumerate(FOUND)])
def test_what_is_found(kind: str, text: str) -> None:
    assert find(text) == {kind: 1}
    assert find(text, *(other for other in KINDS if other != kind)) == {}  # only what is asked for


@pytest.mark.parametrize(
    "text",
    [
        "Ask @ada or see a@b and package@18.2.0",
        "01/02/2024 12:30, 01-02-2024 10, 2024-11-23T13:10:00Z, 202411231310",
        "550e8400-e29b-41d4-a716-446655440000",
        "https://example.org/orders/621498320257",
        "3.14159265358979 v1.2.3 192.168.100.200",
        "4111 1111 1111 1112",  # Luhn
        "FR76 3000 6000 0112 3456 7890 188",  # mod 97
        "order 621498320257",  # a My Number's check digit, but nothing says that it is one
        "AB123456",  # may be a CIN; nothing says so
        "+100000000",
        "11111111111111111111111111",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert find(text) == {}


def test_counts_and_the_kinds_that_are_asked_for() -> None:
    text = "a@example.org, b@example.org, FR7630006000011234567890189 and 4111111111111111"
    assert find(text) == {"email": 2, "iban": 1, "payment-card": 1}
    assert find(text, "email") == {"email": 2}
    assert find("a@example.org " * 1000, "email") == {"email": looking.MOST}
    assert summary(find(text)) == "email 2, iban 1, payment-card 1"


def test_a_number_that_may_be_two_things_counts_as_the_one_that_is_looked_for() -> None:
    text = "4980816362395"  # a Romanian CNP with valid check digits, and a card's number too
    assert find(text, "national-id") == {"national-id": 1}
    assert find(text, "payment-card") == {"payment-card": 1}
    assert find(text) == {"payment-card": 1}


def test_every_text_that_reaches_the_engine_is_looked_through() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
            {"role": "tool", "content": "two", "tool_call_id": "three"},
            {"tool_calls": [{"function": {"name": "f", "arguments": '{"a": "\\u0066our"}'}}]},
        ],
        "tools": [{"function": {"parameters": {"five": {"enum": ["six"]}}}}],
    }
    text, whole = text_of(msgspec.json.encode(body))
    assert whole
    assert {"one", "two", "three", '{"a": "four"}', "five", "six"} <= set(text.split("\n"))


def test_numbers_of_two_texts_are_not_one() -> None:
    text, _ = text_of(msgspec.json.encode(["4111 1111", "1111 1111"]))
    assert look(text, KINDS) == {}


@pytest.mark.parametrize("characters", [["x" * (LONGEST + 1)], ["x" * LONGEST, "y"], ["\u33ff" * (LONGEST // 2)]])
def test_what_is_too_long_is_said_not_to_be_whole(characters: list[str]) -> None:
    text, whole = text_of(msgspec.json.encode(characters))
    assert not whole
    assert len(text) == LONGEST
    assert text_of(msgspec.json.encode("x" * LONGEST))[1]


def test_more_numbers_than_are_checked_count_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "MOST_CHECKS", 10)
    assert find("123456789 " * 20, "payment-card") == {UNREAD: 1}
    assert find("123456789 " * 5, "payment-card") == {}
    monkeypatch.setattr(looking, "MOST_PLANS", 10)
    assert find("0112345678\n" * 20, "phone") == {UNREAD: 1}


def test_quality_on_made_up_texts() -> None:
    by_kind, flagged = quality(find, each=25)
    for kind, measured in by_kind.items():
        assert measured.recall >= 0.99, (kind, measured)
        assert measured.precision >= 0.97, (kind, measured)
    assert flagged <= 0.01


def test_the_measure_of_quality_sees_what_is_missed_and_what_is_wrong() -> None:
    nothing, flagged = quality(lambda _: (), each=2)
    assert {measured.recall for measured in nothing.values()} == {0.0}
    assert flagged == 0.0
    everything, flagged = quality(lambda _: KINDS, each=2)
    assert all(measured.precision < 0.5 for measured in everything.values())
    assert flagged == 1.0


CLASSIFIERS = st.fixed_dictionaries(
    {"detect": st.just(["email"]), "tags": st.lists(st.sampled_from(TAGS), min_size=1, unique=True)},
    optional={"at_least": st.sampled_from(CLASSES)},
)


@given(rules(), questions(), CLASSIFIERS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_finding_only_raises_the_class_and_only_adds_tags(
    drawn: list[dict[str, Any]], question: Any, classifier: dict[str, Any], found: bool
) -> None:
    policy = compile_policy(document(*drawn, classifier=classifier))
    after = raised(question, policy, {"email": 1} if found else {})
    if not found:
        assert after == question
        return
    order = CLASSES.index
    known = question.data_class in ("", *CLASSES)
    if known:
        before = question.data_class or policy.strictest
        assert order(after.data_class) >= order(before)
        assert order(after.data_class) >= order(classifier.get("at_least", "public"))
    assert set(after.tags) == {*question.tags, *classifier["tags"]}
    untouched = {"tenant", "model", "sites", "purpose", "project", "at"}
    assert all(getattr(after, name) == getattr(question, name) for name in untouched)
    if known and after.data_class == (question.data_class or policy.strictest):
        # Of the same class, more tags never open a site that was closed.
        assert set(decide(policy, after).sites) <= set(decide(policy, question).sites)


def test_the_example_of_the_guide_is_a_policy_and_does_what_the_guide_says() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "administrator" / "classification.md").read_text()
    example = json.loads(re.findall(r"```json\n(.*?)```", guide, re.DOTALL)[0])
    assert validate(example) == []
    policy = compile_policy(example)
    question = ask(data_class="public")
    assert decide(policy, question).sites == (PARIS, LYON, RABAT)
    assert decide_raised(policy, question, raised(question, policy, {"iban": 1})).sites == (PARIS, LYON)
    named: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0], named)  # noqa: S102 - our own page
    assert named["find"]("Project Falcon flies") == {"project-name": 1}
    assert f"{LONGEST:,} characters" in guide
    assert all(f"| `{kind}` |" in guide for kind in KINDS)


def test_without_a_classifier_nothing_is_raised() -> None:
    policy = compile_policy(document(allow()))
    assert raised(ask(data_class="public"), policy, {"email": 1}) == ask(data_class="public")


HOSTILE = {
    "digits": "1" * 10_000_000,
    "groups": "1 2 " * 2_500_000,
    "at signs": "@" * 10_000_000,
    "local parts": "a@" * 5_000_000,
    "labels": "a@" + "a." * 5_000_000,
    "marks": "a" + "\u0315\u0300" * 1_000_000,
    "marks beyond": "\U00010a0f\U0001d165" * 500_000,
    "nearly phones": "0112345678 " * 900_000,
    "nearly IBANs": "FR7630006000011234567890188 " * 350_000,
    "nearly IBANs in other groups": "FR76 30006 00001 12345678901 88 " * 300_000,
    "words after what begins like an IBAN": "QA12 ab c1 d23 " * 600_000,
    "nearly cards": "4111111111111112 " * 600_000,
    "nearly CINs": "ab12345 " * 1_200_000,
    "pluses": "+(" * 5_000_000,
    "what becomes longer": "\u3316\ufdfa" * 1_000_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_bounded_for_any_text(name: str) -> None:
    body = msgspec.json.encode(HOSTILE[name])
    started = time.process_time()
    text, whole = text_of(body)
    look(text, KINDS)
    assert time.process_time() - started < 4.0
    assert not whole or len(HOSTILE[name]) <= LONGEST
