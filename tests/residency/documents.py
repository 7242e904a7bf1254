"""Policy documents, sites and questions for the tests of this folder, fixed and random."""

from __future__ import annotations

import copy
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from kasbah.residency.services import Question, SiteFact

TENANT = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
PROJECTS = ("01890a5d-ac96-774b-bcce-b302099a8001", "01890a5d-ac96-774b-bcce-b302099a8002")
SITES = (
    SiteFact(UUID(int=1), "paris", "FR"),
    SiteFact(UUID(int=2), "lyon", "FR", "restricted"),
    SiteFact(UUID(int=3), "rabat", "MA"),
    SiteFact(UUID(int=4), "tokyo", "JP", "restricted"),
)
PARIS, LYON, RABAT, TOKYO = (site.id for site in SITES)
CLASSES = ("public", "internal", "confidential", "secret")
TAGS = ("personal", "health")
MODELS = ("mixtral", "qwen")
PURPOSES = ("research", "support")
# By day in Paris, by night in Tokyo from Friday, and for a while only. NOON is a Monday, 12:00 in Paris.
WINDOWS = (
    {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00", "zone": "Europe/Paris"},
    {"days": ["fri"], "from": "22:30", "to": "06:00", "zone": "Asia/Tokyo"},
    {"not_before": "2026-01-01T00:00:00+01:00", "not_after": "2026-06-30T23:59:59Z"},
    {"to": "12:00", "not_before": "2026-01-05T10:00:00Z"},
)
NOON = 1_767_610_800  # 2026-01-05T11:00:00Z


def document(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A policy document of these rules."""
    return {"version": 1, "rules": list(rules), **fields}


def allow(identifier: str = "allow", **conditions: Any) -> dict[str, Any]:
    """A rule that allows; class `internal` and every model at every site unless said otherwise."""
    rule = {"id": identifier, "effect": "allow", "data_classes": ["internal"], "models": ["*"]}
    place = {} if {"sites", "jurisdictions", "zones"} & conditions.keys() else {"sites": ["*"]}
    return {**rule, **place, **conditions}


def deny(identifier: str = "deny", **conditions: Any) -> dict[str, Any]:
    """A rule that denies what `conditions` say."""
    return {"id": identifier, "effect": "deny", **conditions}


def ask(**fields: Any) -> Question:
    """A question about class `internal`, model `mixtral`, at every site."""
    return Question(**{"tenant": TENANT, "data_class": "internal", "model": "mixtral", "sites": SITES, **fields})


def _some(values: tuple[Any, ...]) -> st.SearchStrategy[list[Any]]:
    if isinstance(values[0], dict):
        # Each its own: YAML would write one object that stands twice as an alias.
        return st.lists(st.sampled_from(values).map(copy.deepcopy), min_size=1, max_size=2)
    return st.lists(st.sampled_from(values), min_size=1, max_size=len(values), unique=True)


# Made once: making strategies costs more than drawing from them.
CONDITIONS = {
    "data_classes": _some(CLASSES),
    "tags": _some((*TAGS, "*")),
    "models": _some((*MODELS, "*")),
    "purposes": _some(PURPOSES),
    "projects": _some(PROJECTS),
    "sites": _some((*(site.slug for site in SITES), "*")),
    "jurisdictions": _some(("FR", "MA", "JP", "*")),
    "zones": _some(("restricted", "*")),
    "windows": _some(WINDOWS),
}
EFFECTS = st.sampled_from(["allow", "allow", "deny"])
PLACE = st.sampled_from(["sites", "jurisdictions", "zones"])
NAMED = st.lists(st.sampled_from(sorted(CONDITIONS)), unique=True, max_size=4)


@st.composite
def _rule(draw: st.DrawFn) -> dict[str, Any]:
    effect = draw(EFFECTS)
    named = set(draw(NAMED))
    if effect == "allow":
        named |= {"data_classes", "models"}
        if not named & {"sites", "jurisdictions", "zones"}:
            named.add(draw(PLACE))
    return {"effect": effect, **{name: draw(CONDITIONS[name]) for name in sorted(named)}}


RULES = st.lists(_rule(), max_size=8)


def rules() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Up to eight random rules that the schema takes."""
    return RULES.map(lambda found: [{"id": f"rule-{number}", **rule} for number, rule in enumerate(found)])


def times() -> st.SearchStrategy[int]:
    """Seconds since the epoch, most of them near a moment at which one of WINDOWS begins or ends; 0 is not known."""
    near = st.builds(
        lambda week, hour, second: NOON + week * 7 * 86400 + hour * 3600 + second,
        st.integers(-30, 60),
        st.integers(-170, 170),
        st.integers(-2, 2) | st.integers(-1800, 1800),
    )
    return (
        st.just(0)
        | near
        | st.sampled_from([1_767_222_000, 1_782_863_999, 1_767_607_200]).flatmap(
            lambda moment: st.integers(moment - 1, moment + 1)
        )
    )


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """A random question, including classes, models and tags that no rule names."""
    return ask(
        data_class=draw(st.sampled_from((*CLASSES, "", "unheard-of"))),
        model=draw(st.sampled_from((*MODELS, "other"))),
        tags=tuple(draw(st.lists(st.sampled_from((*TAGS, "other")), unique=True, max_size=3))),
        purpose=draw(st.sampled_from(("", *PURPOSES, "other"))),
        project=draw(st.sampled_from(("", *PROJECTS))),
        sites=tuple(draw(st.lists(st.sampled_from(SITES), unique=True))),
        at=draw(times()),
    )
