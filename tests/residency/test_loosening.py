"""What a change loosens: found exactly, named in words, and never overlooked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, combinations, product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.residency import loosening, universe
from kasbah.residency.compiled import CompiledPolicy
from kasbah.residency.loosening import Loosened, compare
from kasbah.residency.services import Question, SiteFact, compile_policy, decide

from .documents import NOON, SITES, WINDOWS, allow, ask, deny, document, rules

OTHER = universe.OTHER
TIMES = (0, NOON, NOON + 12 * 3600, NOON + 4 * 86400 + 4 * 3600, NOON + 200 * 86400)


def policy(*found: dict[str, Any], baseline: CompiledPolicy | None = None, **fields: Any) -> CompiledPolicy:
    return compile_policy(document(*found, **fields), baseline=baseline)


def changed(old: CompiledPolicy | None, new: CompiledPolicy) -> list[str]:
    return [item.message for item in compare(old, new, SITES)]


def test_what_is_newly_allowed_is_said_in_words() -> None:
    old = policy(allow(jurisdictions=["FR"], data_classes=["internal"], tags=["personal"]))
    new = policy(
        allow(jurisdictions=["FR"], data_classes=["internal"], tags=["personal"]),
        allow("x", sites=["tokyo"], data_classes=["confidential"], models=["chat"], tags=["personal", "health"]),
        deny("untagged", data_classes=["confidential"], models=["chat"], purposes=["research"]),
    )
    found = compare(old, new, SITES)
    assert [item.what for item in found] == ["cell"] * len(found)
    assert found[0].message == (
        "class confidential for model chat at site tokyo (JP, restricted) for purpose any other"
        " would newly be allowed by rule x"
    )
    assert found[0].example == {
        "data_class": "confidential",
        "tags": [],
        "model": "chat",
        "site": "tokyo",
        "jurisdiction": "JP",
        "zone": "restricted",
        "purpose": OTHER,
        "project": OTHER,
        "at": 0,
    }


def test_tags_are_named_only_when_they_make_the_difference() -> None:
    old = policy(allow(tags=["personal"], sites=["tokyo"]))
    new = policy(allow("x", tags=["*"], sites=["tokyo"]), deny(tags=["health"]))
    assert changed(old, new) == [
        (
            "class internal with tags any other for model any other at site tokyo (JP, restricted)"
            " would newly be allowed by rule x"
        )
    ]
    assert changed(new, old) == []
    assert changed(new, policy(allow("x", tags=["*"], sites=["tokyo"]))) == [
        (
            "class internal with tags health for model any other at site tokyo (JP, restricted)"
            " would newly be allowed by rule x"
        )
    ]


def test_a_country_opens_also_for_sites_that_nobody_has_made_yet() -> None:
    found = compare(policy(allow(sites=["paris"])), policy(allow(jurisdictions=["FR"])), SITES[:1])
    assert [(item.example["site"], item.example["jurisdiction"]) for item in found] == [(OTHER, "FR")]


def test_hours_that_open_are_found_with_a_time() -> None:
    old, new = policy(allow(windows=[WINDOWS[0]])), policy(allow(windows=[{**WINDOWS[0], "to": "18:30"}]))
    found = compare(old, new, SITES)
    assert "UTC would newly be allowed by rule allow" in found[0].message
    question = ask(at=found[0].example["at"])
    assert (decide(old, question).allowed, decide(new, question).allowed) == (False, True)
    assert changed(new, old) == []
    assert changed(policy(allow()), new) == []
    # A denial that ends is a loosening after its end, and none once that is long over.
    ends = deny(windows=[{"not_after": "2026-06-30T23:59:59Z"}])
    assert changed(policy(allow(), deny()), policy(allow(), ends))
    assert compare(policy(allow()), policy(allow(), ends), SITES) == ()
    opened = policy(allow(windows=[{"not_after": "2026-06-30T23:59:59Z"}]))
    assert compare(policy(), opened, SITES, since=NOON)
    assert compare(policy(), opened, SITES, since=NOON + 365 * 86400) == ()


def test_the_first_policy_loosens_all_that_it_allows() -> None:
    assert [item.what for item in compare(None, policy(allow(), content={"public": "commitment"}), SITES)][:2] == [
        "content",
        "cell",
    ]
    assert compare(None, policy(deny()), SITES) == ()


SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("content", {}, {"content": {"public": "commitment"}}, "Of content of class public would be kept: commitment"),
    ("content", {"content": {"public": "commitment"}}, {"content": {"public": "sealed"}}, "sealed instead of commit"),
    ("retention", {"retention": {"public": {"ceiling_days": 3}}}, {"retention": {"public": {"ceiling_days": 4}}},
     "Content of class public could be kept for 4 days instead of 3."),
    ("retention", {"retention": {"public": {"ceiling_days": 3, "floor_days": 2}}},
     {"retention": {"public": {"ceiling_days": 3}}}, "could be removed after 0 days instead of 2"),
    ("strictest", {}, {"strictest": "internal"}, "taken to be internal instead of secret"),
    ("approval", {"approval": "always"}, {}, "would no longer need a second person"),
    ("classifier", {"classifier": {"detect": ["email", "iban"], "tags": ["personal"]}},
     {"classifier": {"detect": ["iban"], "tags": ["personal"]}}, "No longer looked for: email."),
    ("classifier", {"classifier": {"detect": ["email"], "tags": ["personal"]}}, {}, "No longer looked for: email."),
    ("classifier", {"classifier": {"detect": ["email"], "tags": ["personal", "mail"]}},
     {"classifier": {"detect": ["email"], "tags": ["mail"]}}, "no longer be tagged personal"),
    ("classifier", {"classifier": {"detect": ["email"], "at_least": "secret"}},
     {"classifier": {"detect": ["email"], "at_least": "internal"}}, "no longer be at least secret"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "old", "new", "says"), SETTINGS)
def test_settings_that_loosen(what: str, old: dict[str, Any], new: dict[str, Any], says: str) -> None:
    found = compare(policy(**old), policy(**new), SITES)
    assert [item.what for item in found] == [what]
    assert says in found[0].message
    assert compare(policy(**new), policy(**old), SITES) == ()


def test_naming_no_class_may_open_though_the_strictest_is_raised() -> None:
    allowing = allow(data_classes=["confidential"], sites=["paris"])
    messages = changed(policy(allowing, strictest="internal"), policy(allowing, strictest="confidential"))
    assert messages == [
        "requests that name no class for model any other at site paris (FR) would newly be allowed by rule allow"
    ]


def test_a_finding_may_open_where_it_raises_to_a_class_that_is_allowed() -> None:
    """It need not: a stricter class that is allowed nowhere, or wherever the looser one was, loosens nothing."""
    internal, secret = (
        {"classifier": {"detect": ["email"], "at_least": name}, "strictest": "secret"}
        for name in ("internal", "secret")
    )
    rules = (allow(data_classes=["public"]), allow("strict", data_classes=["secret"]))
    messages = changed(policy(*rules, **internal), policy(*rules, **secret))
    assert messages
    assert all(message.startswith("class secret instead of internal for what is found") for message in messages)
    assert changed(policy(*rules[:1], **internal), policy(*rules[:1], **secret)) == []
    everything = allow(data_classes=["*"])
    assert changed(policy(everything, **internal), policy(everything, **secret)) == []


def test_what_the_baseline_forbids_is_not_loosened() -> None:
    bound = policy(allow(jurisdictions=["FR"]), deny(tags=["health"]))
    old = policy(allow(sites=["paris"], tags=["*"]), baseline=bound)
    assert changed(
        old, policy(allow(jurisdictions=["FR", "JP"], tags=["*"]), deny(sites=["lyon"]), baseline=bound)
    ) == [f"class internal for model {OTHER} at site {OTHER} (FR) would newly be allowed by rule allow"]
    wider = policy(allow(jurisdictions=["FR"], tags=["*"]))
    assert changed(old, policy(allow(sites=["paris"], tags=["*"]), baseline=wider))


def test_at_most_20_are_shown() -> None:
    many = [allow(f"m{number}", models=[f"m{number}"]) for number in range(50)]
    assert len(compare(policy(), policy(*many), SITES)) == 20


def test_too_much_to_look_at_needs_a_second_person(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = policy(allow(), deny(tags=["health"])), policy(allow(), deny(tags=["health"]), deny())
    assert compare(old, new, SITES) == ()
    zones = [{"zone": f"Etc/GMT+{number % 12}", "from": f"0{number % 9}:00"} for number in range(12)]
    far = [{"zone": f"Etc/GMT-{number % 12}", "to": f"0{number % 9 + 1}:00"} for number in range(12)]
    models = [deny(f"d{n}", models=[f"m{n}-{k}" for k in range(99)]) for n in range(220)]
    for large in (policy(*models), policy(allow(windows=zones), deny(windows=far))):
        assert [item.what for item in compare(large, large, SITES)] == ["too_large"]
    monkeypatch.setattr(loosening.Search.__init__, "__defaults__", (3,))
    assert [item.what for item in compare(old, new, SITES)] == ["too_large"]


def test_a_large_policy_is_looked_at_in_time() -> None:
    many = [
        {**(allow if number % 3 else deny)(f"r{number}", models=[f"m{number % 40}"]), "tags": [f"t{number % 30}"],
         "sites": [f"s{number % 25}"], "purposes": [f"p{number % 20}"], "data_classes": ["internal", "public"]}
        for number in range(1000)
    ]  # fmt: skip
    started = time.process_time()
    found = {item.what for item in compare(policy(*many), policy(*many), SITES)}
    assert found <= {"too_large"}
    assert time.process_time() - started < 20


# Against brute force over a small universe.


def _subsets(values: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(values, size) for size in range(len(values) + 1))


PLACES = (
    *SITES,
    *(
        SiteFact(UUID(int=9 + number), "other", code, zone)
        for number, (code, zone) in enumerate(product(("FR", "DE"), ("", "restricted", "other")))
    ),
)


def _questions() -> Iterator[Question]:
    for data_class, model, tags, purpose, project, at in product(
        ("", "public", "internal", "confidential", "secret"),
        ("mixtral", "other"),
        _subsets(("personal", "health", "other")),
        ("", "research", "other"),
        ("", "01890a5d-ac96-774b-bcce-b302099a8001"),
        TIMES,
    ):
        yield ask(data_class=data_class, model=model, tags=tags, purpose=purpose, project=project, at=at, sites=PLACES)


QUESTIONS = tuple(_questions())


def opened(old: CompiledPolicy | None, new: CompiledPolicy) -> Question | None:
    """The first question that the new policy allows at a site at which the old one does not."""
    for question in QUESTIONS:
        now = decide(new, question).sites
        if now and not set(now) <= set(decide(old, question).sites):
            return question
    return None


def really(item: Loosened, old: CompiledPolicy | None, new: CompiledPolicy) -> bool:
    """Whether the example of a cell is denied by the old policy and allowed by the rule of the new one."""
    fields = dict(item.example)
    site = SiteFact(UUID(int=99), fields.pop("site"), fields.pop("jurisdiction"), fields.pop("zone"))
    question = ask(**{**fields, "tags": tuple(fields["tags"])}, sites=(site,))
    now = decide(new, question)
    return now.allowed and not decide(old, question).allowed and item.message.endswith(f"allowed by rule {now.rule}")


@st.composite
def changes(draw: st.DrawFn) -> tuple[CompiledPolicy, CompiledPolicy]:
    """A policy and what a person might make of it: some rules taken away, some added; perhaps under baselines."""
    old = draw(rules())
    kept = [rule for rule in old if draw(st.integers(0, 3))]
    more = [{**rule, "id": f"more-{rule['id']}"} for rule in draw(rules())[: draw(st.integers(0, 2))]]
    strictest = [draw(st.sampled_from(["secret", "secret", "confidential"])) for _ in range(2)]
    bounds = [policy(*draw(rules())) if draw(st.booleans()) else None for _ in range(2)]
    if draw(st.booleans()):
        bounds[1] = bounds[0]
    return (
        policy(*old, baseline=bounds[0], strictest=strictest[0]),
        policy(*kept, *more, baseline=bounds[1], strictest=strictest[1]),
    )


def agrees(old: CompiledPolicy, new: CompiledPolicy) -> None:
    """Nothing that brute force finds is overlooked, and nothing is said that is not so."""
    cells = [item for item in compare(old, new, SITES) if item.what == "cell"]
    assert [item.message for item in cells if not really(item, old, new)] == []
    assert cells or opened(old, new) is None


@given(changes())
@settings(max_examples=15, deadline=None)
def test_it_agrees_with_brute_force(change: tuple[CompiledPolicy, CompiledPolicy]) -> None:
    agrees(*change)


@pytest.mark.slow
@given(changes())
@settings(max_examples=150, deadline=None)
def test_it_agrees_with_brute_force_often(change: tuple[CompiledPolicy, CompiledPolicy]) -> None:
    agrees(*change)


def test_brute_force_sees_a_search_that_overlooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the largest tag sets, what opens for tagged requests only is overlooked."""
    old, new = policy(allow()), policy(allow(tags=["personal"]))
    agrees(old, new)
    monkeypatch.setattr(loosening, "_tag_sets", lambda policy, tags: {frozenset(): -1})
    with pytest.raises(AssertionError):
        agrees(old, new)
