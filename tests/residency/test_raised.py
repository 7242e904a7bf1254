"""A request that the classifier raised must be allowed as it was declared and as it was raised: raising never opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from kasbah.gateway import keeping, refusals
from kasbah.residency.classification.raising import raised
from kasbah.residency.compiled import CompiledPolicy
from kasbah.residency.document import CLASSES
from kasbah.residency.services import DECLARED, RAISED, Decision, Question, compile_policy, decide, decide_raised
from kasbah.residency.services.classification import look, text_of

from .documents import LYON, SITES, TAGS, allow, ask, document, questions, rules

Judge = Callable[[CompiledPolicy, Question, Question], Decision]

CLASSIFIERS = st.fixed_dictionaries(
    {
        "detect": st.lists(st.sampled_from(["email", "iban", "payment-card"]), min_size=2, unique=True),
        "tags": st.lists(st.sampled_from(TAGS), min_size=1, unique=True),
    },
    optional={"at_least": st.sampled_from(CLASSES) | st.sampled_from(CLASSES[2:])},
)
TEXTS = st.lists(
    st.sampled_from(
        ["Write to ada@example.org.", "FR76 3000 6000 0112 3456 7890 189", "4111 1111 1111 1111", "order 17", "né"]
    ),
    min_size=1,
    max_size=4,
).map(" ".join)
# Rules that let whole classes through, so that random policies allow often enough to be opened.
WIDE = st.sampled_from(CLASSES[2:]).map(lambda name: [allow("wide", data_classes=[name], tags=["*"])])
DOCUMENTS = rules() | WIDE | st.builds(list.__add__, WIDE, rules())
CLASSIFIED = {"detect": ["email"], "tags": ["personal"], "at_least": "confidential"}
FOUND = {"email": 1}


def never_opens(judge: Judge, examples: int) -> None:
    """For random policies, baselines and texts: what is allowed with the classifier is allowed without it."""

    @given(DOCUMENTS, st.none() | DOCUMENTS, questions(), CLASSIFIERS, TEXTS)
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    def check(
        own: list[dict[str, Any]], above: list[dict[str, Any]] | None, asked: Question, looks: Any, text: str
    ) -> None:
        bound = compile_policy(document(*above)) if above is not None else None
        policy = compile_policy(document(*own, classifier=looks), baseline=bound)
        without = decide(compile_policy(document(*own), baseline=bound), asked)
        found = look(text_of(msgspec.json.encode({"content": text}))[0], looks["detect"])
        decision = judge(policy, asked, raised(asked, policy, found))
        assert set(decision.sites) <= set(without.sites)
        assert decision.allowed <= without.allowed
        if not found:
            assert decision == without

    check()


def test_a_classifier_opens_nothing() -> None:
    never_opens(decide_raised, 250)


def test_the_property_sees_what_deciding_about_the_raised_request_alone_opens() -> None:
    """The negative control."""
    with pytest.raises(AssertionError):
        never_opens(lambda policy, _, question: decide(policy, question), 3_000)


@given(rules(), questions(), CLASSIFIERS)
@settings(max_examples=150, deadline=None)
def test_it_is_what_both_allow_and_says_which_of_them_denies(
    own: list[dict[str, Any]], asked: Question, looks: dict[str, Any]
) -> None:
    policy = compile_policy(document(*own, classifier=looks))
    question = raised(asked, policy, FOUND)
    assume(question != asked)
    before, after = decide(policy, asked), decide(policy, question)
    decision = decide_raised(policy, asked, question)
    assert decision.sites == tuple(site for site in before.sites if site in after.sites)
    assert decision.allowed == bool(decision.sites)
    assert (decision.declared_class, decision.data_class) == (before.data_class, after.data_class)
    both = {(item.site, item.rule, DECLARED) for item in before.reasons} | {
        (item.site, item.rule, RAISED) for item in after.reasons
    }
    assert {(item.site, item.rule, item.reading) for item in decision.reasons} == both
    denied = [name for name, one in ((DECLARED, before), (RAISED, after)) if not one.allowed]
    assert decision.denied_as == (() if decision.allowed else tuple(denied or (DECLARED, RAISED)))


# What each side of a policy of its own makes of a request that calls itself public and has an address in it.
OPEN, STRICT = allow("open", data_classes=["public"]), allow("strict", data_classes=["confidential"], tags=["personal"])
CASES = [
    ([STRICT], (), (DECLARED,), "default_deny"),
    ([OPEN], (), (RAISED,), "default_deny"),
    ([], (), (DECLARED, RAISED), "default_deny"),
    ([{**OPEN, "sites": ["paris"]}, {**STRICT, "sites": ["rabat"]}], (), (DECLARED, RAISED), "default_deny"),
    ([{**OPEN, "sites": ["paris", "lyon"]}, {**STRICT, "sites": ["lyon", "rabat"]}], (LYON,), (), "strict"),
    ([OPEN, STRICT], tuple(site.id for site in SITES), (), "strict"),
]


@pytest.mark.parametrize(("own", "sites", "denied_as", "rule"), CASES)
def test_cases(own: list[dict[str, Any]], sites: tuple[Any, ...], denied_as: tuple[str, ...], rule: str) -> None:
    policy = compile_policy(document(*own, classifier=CLASSIFIED), version=3)
    asked = ask(data_class="public")
    decision = decide_raised(policy, asked, raised(asked, policy, FOUND))
    assert (decision.sites, decision.denied_as, decision.rule) == (sites, denied_as, rule)


def test_the_refusal_says_which_of_the_two_denied() -> None:
    said = []
    for own, _, denied_as, _ in CASES[:3]:
        policy = compile_policy(document(*own, classifier=CLASSIFIED), version=3)
        asked = ask(data_class="public")
        question = raised(asked, policy, FOUND)
        decision = decide_raised(policy, asked, question)
        said.append(refusals.residency_denied(policy, decision, asked, question, FOUND).message)
        assert all(f"paris (no rule allows it, as it was {name})" in said[-1] for name in denied_as)
    assert "It is denied as it was declared (public). " in said[0]
    assert "take out" not in said[0]  # for that would change nothing
    assert "It is denied as it was raised (confidential). " in said[1]
    assert "take out what was found in the text: email 1." in said[1]
    assert "It is denied as it was declared (public) and as it was raised (confidential). " in said[2]
    assert "class confidential (declared public, and raised for what was found in it), policy version 3" in said[2]


KEEPING: list[tuple[dict[str, Any], tuple[str, int] | None]] = [
    ({"content": {"public": "none", "confidential": "sealed"},
      "retention": {"confidential": {"ceiling_days": 9}}}, None),
    ({"content": {"public": "commitment", "confidential": "sealed"},
      "retention": {"confidential": {"ceiling_days": 9}}}, ("commitment", 9)),
    ({"content": {"public": "sealed", "confidential": "sealed"},
      "retention": {"public": {"ceiling_days": 5}, "confidential": {"ceiling_days": 9}}}, ("sealed", 5)),
    ({"content": {"public": "sealed", "confidential": "sealed"},
      "retention": {"public": {"ceiling_days": 9}, "confidential": {"ceiling_days": 5}}}, ("sealed", 5)),
    ({"content": {"public": "sealed", "confidential": "none"}, "retention": {"public": {"ceiling_days": 9}}}, None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kept"), KEEPING)
def test_no_more_is_kept_than_both_classes_let(fields: dict[str, Any], kept: tuple[str, int] | None) -> None:
    policy = compile_policy(document(OPEN, STRICT, classifier=CLASSIFIED, **fields))
    asked = ask(data_class="public")
    decision = decide_raised(policy, asked, raised(asked, policy, FOUND))
    who: Any = type("Principal", (), {"tenant_id": asked.tenant, "project_id": asked.tenant})
    place = keeping.place(policy, who, decision, "req_1")
    assert (None if place is None else (place.level, place.ceiling_days)) == kept
    assert place is None or place.data_class == "confidential"


def test_what_was_not_raised_is_decided_as_ever() -> None:
    policy = compile_policy(document(OPEN, STRICT, classifier=CLASSIFIED))
    for asked in (ask(data_class="public"), ask(data_class="confidential", tags=("personal",))):
        assert decide_raised(policy, asked, asked) == decide(policy, asked)
        assert decide_raised(None, asked, asked) == decide(None, asked)
    assert decide_raised(policy, ask(sites=()), raised(ask(sites=()), policy, FOUND)).rule == "no_site"
