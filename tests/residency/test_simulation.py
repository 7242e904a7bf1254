"""The simulator's arithmetic: each past request is decided again, exactly, or counted as not comparable."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.residency.services import CompiledPolicy, Question, compile_policy, decide
from kasbah.residency.simulation import EXAMPLES, NOT_LOOKED_FOR, Change, Kind, Past, Tally, Unknown, compare, simulate

from .documents import NOON, SITES, allow, ask, deny, document, questions, rules

LOOKS = {"detect": ["email", "iban"], "tags": ["personal"], "at_least": "confidential"}


def policy(*found: dict[str, Any], **fields: Any) -> CompiledPolicy:
    return compile_policy(document(*found, **fields), policy_id="draft", version=2)


def asked(before: CompiledPolicy, question: Question, ident: str = "req_1", **fields: Any) -> Past:
    """A request as the policy of then answered it."""
    sites = decide(before, question).sites
    return Past(request_id=ident, time="2026-01-05T11:00:00.000000Z", question=question, sites=sites, **fields)


def changed(request: Past, draft: CompiledPolicy) -> Change:
    found = compare(request, draft)
    assert isinstance(found, Change)
    return found


FRANCE, EVERYWHERE = policy(allow("france", jurisdictions=["FR"])), policy(allow("everywhere"))
NOTHING = policy()


def test_newly_denied_names_the_rule_and_the_sites_that_are_lost() -> None:
    found = changed(
        asked(FRANCE, ask()), policy(allow(), deny("no-france", jurisdictions=["FR"]), deny("x", sites=["*"]))
    )
    assert (found.kind, found.before, found.after) == (Kind.NEWLY_DENIED, "allowed", "denied")
    assert (found.rule, found.lost, found.gained) == ("no-france", ("paris", "lyon"), ())


def test_newly_allowed_names_the_rule_that_allows() -> None:
    found = changed(asked(NOTHING, ask()), FRANCE)
    assert (found.kind, found.before, found.after) == (Kind.NEWLY_ALLOWED, "denied", "allowed")
    assert (found.rule, found.lost, found.gained) == ("france", (), ("paris", "lyon"))


def test_a_request_that_loses_one_of_its_sites_has_moved() -> None:
    found = changed(asked(FRANCE, ask()), policy(allow(), deny("not-lyon", sites=["lyon"])))
    assert (found.kind, found.rule) == (Kind.MOVED, "not-lyon")
    assert (found.lost, found.gained) == (("lyon",), ("rabat", "tokyo"))


def test_a_request_that_gains_a_site_has_moved_by_the_rule_that_opens_it() -> None:
    found = changed(
        asked(FRANCE, ask()), policy(allow("france", jurisdictions=["FR"]), allow("rabat-too", sites=["rabat"]))
    )
    assert (found.kind, found.rule, found.gained) == (Kind.MOVED, "rabat-too", ("rabat",))


def test_the_sites_are_those_that_the_request_had() -> None:
    """A site that was added since answers for nothing, and one that is gone still does."""
    at_paris = ask(sites=SITES[:1])
    assert changed(asked(FRANCE, at_paris), EVERYWHERE).kind == Kind.UNCHANGED_ALLOWED
    assert changed(asked(EVERYWHERE, at_paris), policy(allow(sites=["rabat"]))).kind == Kind.NEWLY_DENIED


def test_a_request_without_a_class_is_of_the_new_policys_strictest() -> None:
    before = policy(allow(data_classes=["confidential"]), strictest="confidential")
    request = asked(before, ask(data_class=""))
    assert request.sites
    found = changed(request, policy(allow(data_classes=["confidential"])))
    assert (found.kind, found.data_class) == (Kind.NEWLY_DENIED, "secret")


def test_it_is_decided_at_the_requests_own_time() -> None:
    daytime = policy(allow(windows=[{"from": "08:00", "to": "18:00", "zone": "Europe/Paris"}]))
    assert changed(asked(EVERYWHERE, ask(at=NOON)), daytime).kind == Kind.UNCHANGED_ALLOWED
    assert changed(asked(EVERYWHERE, ask(at=NOON + 43_200)), daytime).kind == Kind.NEWLY_DENIED


def test_the_baseline_bounds_what_is_simulated() -> None:
    bound = compile_policy(document(deny("no-morocco", jurisdictions=["MA"]), allow("rest")), version=4)
    draft = compile_policy(document(allow()), version=2, baseline=bound)
    found = changed(asked(EVERYWHERE, ask(sites=SITES[2:3])), draft)
    assert (found.kind, found.rule) == (Kind.NEWLY_DENIED, "baseline/no-morocco")


class TestClassifier:
    """What another classifier would have found is known only where nobody need look again."""

    untagged = policy(allow(), classifier=LOOKS)

    def test_the_same_kinds_give_the_same_findings(self) -> None:
        seen = asked(EVERYWHERE, ask(), looked_for=("iban", "email"), found=("email",))
        assert changed(seen, self.untagged).kind == Kind.NEWLY_DENIED
        clean = asked(EVERYWHERE, ask(), looked_for=("iban", "email"))
        assert changed(clean, self.untagged).kind == Kind.UNCHANGED_ALLOWED

    def test_nothing_found_by_one_that_looks_for_more_is_nothing(self) -> None:
        clean = asked(EVERYWHERE, ask(), looked_for=("iban", "email", "phone"))
        assert changed(clean, self.untagged).kind == Kind.UNCHANGED_ALLOWED
        seen = asked(EVERYWHERE, ask(), looked_for=("iban", "email", "phone"), found=("phone",))
        assert compare(seen, self.untagged) == Unknown(request_id="req_1", reason=NOT_LOOKED_FOR)

    def test_what_nobody_looked_for_is_not_guessed(self) -> None:
        assert isinstance(compare(asked(EVERYWHERE, ask()), self.untagged), Unknown)

    def test_unless_it_makes_no_difference(self) -> None:
        indifferent = policy(deny("all", sites=["*"]), classifier={"detect": ["iban"], "tags": ["personal"]})
        assert changed(asked(EVERYWHERE, ask()), indifferent).kind == Kind.NEWLY_DENIED

    def test_a_policy_that_looks_for_nothing_decides_what_was_asked(self) -> None:
        seen = asked(self.untagged, ask(), looked_for=("iban", "email"), found=("email",))
        assert changed(seen, EVERYWHERE).kind == Kind.UNCHANGED_ALLOWED


def test_counts_by_every_dimension_and_up_to_twenty_examples() -> None:
    requests: list[Past | Unknown] = [asked(FRANCE, ask(), f"req_{n}") for n in range(25)]
    requests += [asked(FRANCE, ask(model="qwen", sites=SITES[:1]), "req_qwen"), Unknown(request_id="old", reason="why")]
    seen: list[Change] = []
    tally = simulate(
        requests, policy(allow(models=["mixtral"], sites=["paris"]), deny("qwen", models=["qwen"])), seen.append
    )
    assert tally.counts == {Kind.MOVED: 25, Kind.NEWLY_DENIED: 1, Kind.NOT_COMPARABLE: 1}
    assert tally.requests == 27
    assert tally.groups["model", "mixtral"] == {Kind.MOVED: 25}
    assert tally.groups["model", "qwen"] == {Kind.NEWLY_DENIED: 1}
    assert tally.groups["data_class", "internal"] == {Kind.MOVED: 25, Kind.NEWLY_DENIED: 1}
    assert tally.groups["rule", "qwen"] == {Kind.NEWLY_DENIED: 1}
    assert tally.sites == {"lyon": {"lost": 25}, "paris": {"lost": 1}}
    assert tally.unknown == {"why": 1}
    assert tally.examples[Kind.MOVED] == [f"req_{n}" for n in range(EXAMPLES)]
    assert tally.examples[Kind.NOT_COMPARABLE] == ["old"]
    assert len(seen) == 26


@given(rules(), rules(), st.lists(questions(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_every_answer_is_that_of_decide(
    then: list[dict[str, Any]], now: list[dict[str, Any]], asked_then: list[Question]
) -> None:
    """The counts are what two policies, asked one after the other, say."""
    old, new = policy(*then), policy(*now)
    expected: Counter[Kind] = Counter()
    for question in asked_then:
        before, after = decide(old, question), decide(new, question)
        match before.allowed, after.allowed:
            case True, False:
                expected[Kind.NEWLY_DENIED] += 1
            case False, True:
                expected[Kind.NEWLY_ALLOWED] += 1
            case False, False:
                expected[Kind.UNCHANGED_DENIED] += 1
            case _:
                same = set(before.sites) == set(after.sites)
                expected[Kind.UNCHANGED_ALLOWED if same else Kind.MOVED] += 1
    tally: Tally = simulate([asked(old, question) for question in asked_then], new)
    assert tally.counts == expected
    for dimension in ("data_class", "model", "project", "rule"):
        groups = [counts for (by, _), counts in tally.groups.items() if by == dimension]
        assert sum(groups, Counter[Kind]()) == expected


@given(rules(), st.lists(questions(), max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_same_policy_changes_nothing(then: list[dict[str, Any]], asked_then: list[Question]) -> None:
    same = policy(*then)
    tally = simulate([asked(same, question) for question in asked_then], same)
    assert set(tally.counts) <= {Kind.UNCHANGED_ALLOWED, Kind.UNCHANGED_DENIED}
    assert not tally.sites
