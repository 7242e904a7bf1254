"""The platform's baseline: a bound that a tenant's own policy can only tighten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from kasbah.residency import decision
from kasbah.residency.compiled import CompiledPolicy
from kasbah.residency.document import Retention
from kasbah.residency.services import Question, compile_policy, decide

from .documents import LYON, PARIS, RABAT, TENANT, TOKYO, allow, ask, deny, document, questions, rules


def under(baseline: dict[str, Any], own: dict[str, Any]) -> CompiledPolicy:
    """A tenant's policy under a baseline of version 7."""
    bound = compile_policy(baseline, policy_id="b", version=7)
    return compile_policy(own, tenant=TENANT, policy_id="p", version=3, baseline=bound)


def test_a_site_needs_both_and_who_denies_is_named() -> None:
    both = under(
        document(allow("union", jurisdictions=["FR", "JP"]), deny("closed", sites=["lyon"])),
        document(allow("mine"), deny("not-tokyo", sites=["tokyo"])),
    )
    found = decide(both, ask())
    assert (found.sites, found.rule, found.policy, found.baseline_version) == ((PARIS,), "mine", "p@3", 7)
    assert {item.slug: item.rule for item in found.reasons} == {
        "lyon": "baseline/closed",
        "rabat": "baseline/default_deny",
        "tokyo": "not-tokyo",
    }
    assert found.explain() == (
        "Allowed by rule mine (class internal, policy version 3, baseline version 7). Excluded: "
        "lyon (denied by rule closed of the platform's baseline), "
        "rabat (no rule of the platform's baseline allows it), tokyo (denied by rule not-tokyo)."
    )


def test_the_baseline_is_named_first_since_no_policy_of_the_tenant_can_open_it() -> None:
    found = decide(under(document(deny("closed")), document(deny("mine"))), ask())
    assert (found.allowed, found.rule) == (False, "baseline/closed")
    alone = decide(under(document(allow()), document()), ask())
    assert (alone.allowed, alone.rule) == (False, decision.DEFAULT_DENY)


def test_without_a_baseline_the_policy_alone_decides() -> None:
    found = decide(compile_policy(document(allow())), ask())
    assert (found.sites, found.baseline_version) == ((PARIS, LYON, RABAT, TOKYO), 0)
    assert "baseline" not in found.explain()


def test_a_baseline_has_no_tenant_and_no_baseline() -> None:
    bound = compile_policy(document(allow()))
    nested = compile_policy(document(allow()), baseline=bound)
    owned = compile_policy(document(allow()), tenant=TENANT)
    for wrong in (nested, owned):
        with pytest.raises(ValueError, match="a baseline belongs to no tenant"):
            compile_policy(document(allow()), baseline=wrong)


def test_naming_no_class_is_the_stricter_of_both() -> None:
    assert decide(
        under(document(strictest="confidential"), document(strictest="public")), ask(data_class="")
    ).data_class == ("confidential")
    assert under(document(strictest="public"), document()).strictest == "secret"


def test_less_is_kept_and_more_is_looked_for() -> None:
    both = under(
        document(
            content={"public": "sealed", "internal": "commitment"},
            retention={"public": {"floor_days": 2, "ceiling_days": 30}},
            classifier={"detect": ["iban", "email"], "at_least": "confidential"},
        ),
        document(
            content={"public": "sealed", "internal": "sealed", "confidential": "commitment"},
            retention={"public": {"floor_days": 1, "ceiling_days": 60}, "internal": {"ceiling_days": 5}},
            classifier={"detect": ["email", "phone"], "tags": ["personal"], "at_least": "internal"},
            approval="always",
        ),
    )
    assert [both.content(name) for name in ("public", "internal", "confidential")] == ["sealed", "commitment", "none"]
    assert both.retention("public") == Retention(floor_days=2, ceiling_days=30)
    assert both.retention("internal") == Retention(floor_days=0, ceiling_days=0)
    assert both.approval == "always"
    assert both.classifier is not None
    assert set(both.classifier.detect) == {"iban", "email", "phone"}
    assert (both.classifier.tags, both.classifier.at_least) == (("personal",), "confidential")
    assert compile_policy(document()).classifier is None


def test_what_must_go_goes_though_the_other_document_would_keep_it() -> None:
    both = under(
        document(retention={"public": {"floor_days": 30, "ceiling_days": 60}}),
        document(retention={"public": {"ceiling_days": 10}}),
    )
    assert both.retention("public") == Retention(floor_days=10, ceiling_days=10)


@given(rules(), rules(), questions())
@settings(max_examples=50, deadline=None)
def test_a_baseline_never_lets_more_through(
    bound: list[dict[str, Any]], own: list[dict[str, Any]], question: Question
) -> None:
    baseline = compile_policy(document(*bound))
    alone, first = decide(compile_policy(document(*own)), question), decide(baseline, question)
    both = decide(compile_policy(document(*own), baseline=baseline), question)
    assert set(both.sites) == set(alone.sites) & set(first.sites)
    named = {item.site for item in both.reasons if item.rule.startswith(decision.BASELINE)}
    assert named == {site.id for site in question.sites} - set(first.sites)


def test_the_property_sees_a_baseline_that_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a decision that forgets the baseline lets more through."""
    both = under(document(), document(allow()))
    assert not decide(both, ask()).sites
    asked = decision._verdicts
    monkeypatch.setattr(
        decision, "_verdicts", lambda policy, *rest: asked(both if policy is both.baseline else policy, *rest)
    )
    assert decide(both, ask()).sites == (PARIS, LYON, RABAT, TOKYO)
