"""The decision: its rules one by one, and its properties over random policies."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.residency.decision import DEFAULT_DENY, NO_POLICY, NO_SITE
from kasbah.residency.document import PolicyInvalid, validate
from kasbah.residency.services import Question, SiteFact, compile_policy, decide

from .documents import LYON, PARIS, PROJECTS, RABAT, SITES, TENANT, TOKYO, allow, ask, deny, document, questions, rules


def answer(*rules: dict[str, Any], **question: Any) -> Any:
    return decide(compile_policy(document(*rules), policy_id="p", version=3), ask(**question))


def test_without_an_active_policy_nothing_is_allowed() -> None:
    decision = decide(None, ask())
    assert (decision.allowed, decision.sites, decision.rule) == (False, (), NO_POLICY)
    assert "no active residency policy" in decision.explain()


def test_an_empty_policy_denies_by_default_and_says_so_for_each_site() -> None:
    decision = answer()
    assert (decision.allowed, decision.rule) == (False, DEFAULT_DENY)
    assert {(item.slug, item.rule) for item in decision.reasons} == {(site.slug, DEFAULT_DENY) for site in SITES}


def test_a_rule_allows_its_jurisdiction_only_and_names_itself() -> None:
    decision = answer(allow("france", jurisdictions=["FR"]))
    assert decision.sites == (PARIS, LYON)
    assert (decision.rule, decision.policy) == ("france", "p@3")
    assert [(item.slug, item.rule) for item in decision.reasons] == [("rabat", DEFAULT_DENY), ("tokyo", DEFAULT_DENY)]


def test_deny_wins_wherever_it_stands() -> None:
    for both in ([allow(), deny(sites=["lyon"])], [deny(sites=["lyon"]), allow()]):
        decision = answer(*both)
        assert decision.sites == (PARIS, RABAT, TOKYO)
        assert [(item.slug, item.rule) for item in decision.reasons] == [("lyon", "deny")]


def test_a_denial_names_the_rule_that_caused_it() -> None:
    decision = answer(allow(jurisdictions=["FR"]), deny("no-france", jurisdictions=["FR"]))
    assert (decision.allowed, decision.rule) == (False, "no-france")
    assert "paris (denied by rule no-france)" in decision.explain()
    assert "rabat (no rule allows it)" in decision.explain()


def test_places_of_one_rule_must_both_hold() -> None:
    assert answer(allow(sites=["paris", "rabat"], jurisdictions=["FR"])).sites == (PARIS,)


def test_an_absent_class_is_the_strictest_of_the_tenant() -> None:
    rule = allow(data_classes=["confidential"])
    assert not answer(rule, data_class="").allowed
    policy = compile_policy(document(rule, strictest="confidential"))
    decision = decide(policy, ask(data_class=""))
    assert (decision.allowed, decision.data_class) == (True, "confidential")


def test_an_unknown_class_is_denied() -> None:
    assert not answer(allow(data_classes=["public", "internal", "confidential", "secret"]), data_class="x").allowed


def test_a_rule_that_allows_must_name_every_tag_of_the_request() -> None:
    rule = allow(tags=["personal"])
    assert answer(rule).allowed
    assert answer(rule, tags=("personal",)).allowed
    assert not answer(rule, tags=("personal", "health")).allowed
    assert not answer(allow(), tags=("personal",)).allowed
    assert answer(allow(tags=["*"]), tags=("personal", "health")).allowed


def test_a_rule_that_denies_needs_one_tag() -> None:
    both = [allow(tags=["*"]), deny(tags=["health"])]
    assert answer(*both).allowed
    assert answer(*both, tags=("personal",)).allowed
    assert not answer(*both, tags=("personal", "health")).allowed


def test_leaving_the_purpose_out_is_no_way_around_a_rule() -> None:
    both = [allow(), deny(purposes=["research"])]
    assert answer(*both, purpose="support").allowed
    assert not answer(*both, purpose="research").allowed
    assert not answer(*both, purpose="").allowed
    assert not answer(allow(purposes=["support"]), purpose="").allowed
    assert answer(allow(purposes=["support"]), purpose="support").allowed


def test_project_and_model_conditions() -> None:
    assert answer(allow(projects=[PROJECTS[0]], models=["mixtral"]), project=PROJECTS[0]).allowed
    assert not answer(allow(projects=[PROJECTS[0]]), project=PROJECTS[1]).allowed
    assert not answer(allow(models=["qwen"])).allowed
    assert not answer(allow(), deny(models=["mixtral"])).allowed


def test_a_model_that_is_served_nowhere() -> None:
    assert answer(allow(), sites=()).rule == NO_SITE


def test_a_policy_never_decides_for_another_tenant() -> None:
    policy = compile_policy(document(allow()), tenant=TENANT)
    assert decide(policy, ask()).allowed
    with pytest.raises(ValueError, match="another"):
        decide(policy, ask(tenant=SITES[0].id))


def test_a_condition_from_a_later_version_is_refused_not_ignored() -> None:
    with pytest.raises(PolicyInvalid):
        compile_policy(document(allow(hours=["08-18"])))
    with pytest.raises(PolicyInvalid):
        compile_policy({"version": 2, "rules": []})


# Properties over random policies.


def open_at(rule: dict[str, Any], at: int) -> bool:
    """Whether a rule applies at a time, as one reads its windows: day by day."""
    if not rule.get("windows") or not at:
        return not rule.get("windows") or rule["effect"] == "deny"

    def holds(window: dict[str, Any]) -> bool:
        now = datetime.fromtimestamp(at, UTC)
        if "not_before" in window and now < datetime.fromisoformat(window["not_before"]):
            return False
        if "not_after" in window and now > datetime.fromisoformat(window["not_after"]):
            return False
        local = now.astimezone(ZoneInfo(window.get("zone", "UTC"))).replace(tzinfo=None)
        for begun in (local.date() - timedelta(days=1), local.date()):
            if f"{begun:%a}".lower() in window.get("days", [f"{begun:%a}".lower()]):
                begins = datetime.combine(begun, clock.fromisoformat(window.get("from", "00:00")))
                ends = datetime.combine(begun, clock.fromisoformat(window.get("to", "00:00")))
                if begins <= local < (ends if ends > begins else ends + timedelta(days=1)):
                    return True
        return False

    return any(holds(window) for window in rule["windows"])


def reference(found: list[dict[str, Any]], question: Question, site: SiteFact) -> bool:
    """The meaning of the rules once more, written as one reads the schema: slow, and without masks."""

    def listed(rule: dict[str, Any], name: str, value: str, absent: bool) -> bool:
        values = rule.get(name)
        return absent if values is None else value in values or "*" in values

    def applies(rule: dict[str, Any]) -> bool:
        denies = rule["effect"] == "deny"
        tags = rule.get("tags", [])
        tagged = [tag in tags or "*" in tags for tag in question.tags]
        tags_hold = (any(tagged) or "tags" not in rule) if denies else all(tagged)
        purpose_holds = listed(rule, "purposes", question.purpose, absent=True) or (denies and not question.purpose)
        return (
            tags_hold
            and purpose_holds
            and open_at(rule, question.at)
            and listed(rule, "data_classes", question.data_class or "secret", absent=denies)
            and listed(rule, "models", question.model, absent=denies)
            and listed(rule, "projects", question.project, absent=True)
            and listed(rule, "sites", site.slug, absent=True)
            and listed(rule, "jurisdictions", site.jurisdiction, absent=True)
            and listed(rule, "zones", site.zone, absent=True)
        )

    effects = {rule["effect"] for rule in found if applies(rule)}
    return effects == {"allow"}


@given(rules(), questions())
@settings(max_examples=250, deadline=None)
def test_the_decision_equals_its_reference(found: list[dict[str, Any]], question: Question) -> None:
    decision = decide(compile_policy(document(*found)), question)
    assert decision.sites == tuple(site.id for site in question.sites if reference(found, question, site))
    assert decision.allowed == bool(decision.sites)
    assert {item.site for item in decision.reasons} == {site.id for site in question.sites} - set(decision.sites)


@given(rules(), questions(), st.data())
@settings(max_examples=100, deadline=None)
def test_taking_a_rule_that_allows_away_never_allows_more(
    found: list[dict[str, Any]], question: Question, data: st.DataObject
) -> None:
    allowing = [index for index, rule in enumerate(found) if rule["effect"] == "allow"]
    before = set(decide(compile_policy(document(*found)), question).sites)
    if allowing:
        del found[data.draw(st.sampled_from(allowing))]
    assert set(decide(compile_policy(document(*found)), question).sites) <= before


@given(rules(), questions(), rules())
@settings(max_examples=100, deadline=None)
def test_adding_rules_that_deny_never_allows_more_and_their_sites_are_out(
    found: list[dict[str, Any]], question: Question, more: list[dict[str, Any]]
) -> None:
    before = set(decide(compile_policy(document(*found)), question).sites)
    extra = [{**rule, "id": f"more-{rule['id']}", "effect": "deny"} for rule in more]
    after = decide(compile_policy(document(*found, *extra)), question)
    assert set(after.sites) <= before
    everywhere = decide(compile_policy(document(*found, *extra, deny("all"))), question)
    assert everywhere.sites == ()


def test_taking_a_rule_that_denies_away_may_allow_more() -> None:
    """So of "removing a rule never allows more" only the half about rules that allow holds."""
    assert not answer(allow(), deny()).allowed
    assert answer(allow()).allowed


def test_the_reference_sees_a_decision_that_forgets_a_denial() -> None:
    """The negative control of the properties: without the side that denies, decision and reference part."""
    found = [allow(), deny(sites=["lyon"])]
    whole = compile_policy(document(*found))
    broken = replace(whole, deny=compile_policy(document()).deny)
    expected = tuple(site.id for site in SITES if reference(found, ask(), site))
    assert decide(whole, ask()).sites == expected
    assert decide(broken, ask()).sites != expected


@given(rules(), questions(), st.sampled_from(["personal", "health", "other"]))
@settings(max_examples=100, deadline=None)
def test_one_more_tag_never_allows_more(found: list[dict[str, Any]], question: Question, tag: str) -> None:
    policy = compile_policy(document(*found))
    tagged = msgspec.structs.replace(question, tags=(*question.tags, tag))
    assert set(decide(policy, tagged).sites) <= set(decide(policy, question).sites)


@given(rules(), questions(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_fallback_never_leaves_the_compliant_set(
    found: list[dict[str, Any]], question: Question, data: st.DataObject
) -> None:
    """Sites fail one after another: what is decided over those left is always within the first answer."""
    policy = compile_policy(document(*found))
    compliant = set(decide(policy, question).sites)
    left = list(question.sites)
    while left:
        del left[data.draw(st.integers(0, len(left) - 1))]
        smaller = msgspec.structs.replace(question, sites=tuple(left))
        assert set(decide(policy, smaller).sites) == compliant & {site.id for site in left}


@given(rules())
@settings(max_examples=100, deadline=None)
def test_what_the_schema_takes_can_be_compiled(found: list[dict[str, Any]]) -> None:
    policy = document(*found)
    before = copy.deepcopy(policy)
    assert validate(policy) == []
    assert compile_policy(policy).rule_ids == tuple(rule["id"] for rule in found)
    assert policy == before


def test_deciding_takes_less_than_50_microseconds_at_1000_rules() -> None:
    """The worst shape there is: every rule is about the class, the model and the tags that are asked for."""
    many = [
        {**(allow if number % 2 else deny)(f"rule-{number}"), "tags": ["*"], "purposes": [f"p{number}"], "sites": ["*"]}
        for number in range(1000)
    ]
    policy = compile_policy(document(*many))
    question = ask(tags=("personal", "health"), purpose="p999", project=PROJECTS[0])
    assert decide(policy, question).rule == "rule-999"
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            decide(policy, question)
        rounds.append((time.perf_counter() - start) / 100)
    assert min(rounds) < 50e-6, f"{min(rounds) * 1e6:.0f} us"


def test_zones_confine_within_a_country() -> None:
    inside = compile_policy(document(allow(zones=["restricted"])))
    assert decide(inside, ask()).sites == (LYON, TOKYO)
    both = compile_policy(document(allow(zones=["restricted"], jurisdictions=["FR"])))
    assert decide(both, ask()).sites == (LYON,)
    out = compile_policy(document(allow(sites=["*"]), deny("not-there", zones=["restricted"])))
    assert decide(out, ask()).sites == (PARIS, RABAT)
    anywhere = compile_policy(document(allow(zones=["*"])))
    assert decide(anywhere, ask()).sites == (PARIS, LYON, RABAT, TOKYO)
