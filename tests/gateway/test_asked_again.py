"""What the gateway records of a request is all that a simulation needs to ask it again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.audit.services import EventType, Outcome
from kasbah.common.ids import uuid7
from kasbah.gateway import admission
from kasbah.identity.services import Principal
from kasbah.residency.classification.raising import raised
from kasbah.residency.recorded import past, recorded
from kasbah.residency.services import CompiledPolicy, Question, compile_policy, decide_raised
from kasbah.residency.simulation import Kind, Past, compare
from tests.residency.documents import TENANT, allow, ask, document, questions, rules

LOOKS = {"detect": ["email", "iban"], "tags": ["personal"], "at_least": "confidential"}
FOUND = st.sampled_from([{}, {"email": 2}, {"email": 1, "iban": 3}, {"unread": 1}])


def written(policy: CompiledPolicy, asked: Question, found: dict[str, int]) -> bytes:
    """The event of a request, as the gateway writes it."""
    question = raised(asked, policy, found)
    wish = SimpleNamespace(
        asked=asked,
        question=question,
        found=found,
        principal=Principal(uuid7(), "key", TENANT, "t", uuid7(), frozenset(), "", "", None),
        endpoint=SimpleNamespace(path="/v1/chat/completions"),
        body=SimpleNamespace(streams=True),
        facts=SimpleNamespace(policy=policy),
        deployment=SimpleNamespace(name=question.model, model_digest="0" * 64),
    )
    decision = decide_raised(policy, asked, question)
    kind = EventType.INFERENCE_INTENT if decision.allowed else EventType.INFERENCE_DENIED
    exchange: Any = SimpleNamespace(request_id="req_1")
    event = admission._event(exchange, wish, decision, kind, Outcome.PENDING)  # type: ignore[arg-type]
    return event.encoded


def read(data: bytes) -> Past:
    found = past(TENANT, recorded(data))
    assert isinstance(found, Past), found
    return found


@given(rules(), questions(), FOUND, st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_comes_back_as_it_was_asked(
    own: list[dict[str, Any]], question: Question, found: dict[str, int], looks: bool
) -> None:
    """And decided again by the same policy, classifier included, it gets the same answer."""
    asked = msgspec.structs.replace(question, at=question.at or 1_767_610_800)
    policy = compile_policy(document(*own, **({"classifier": LOOKS} if looks else {})))
    again = read(written(policy, asked, found if looks else {}))
    assert again.question == asked
    assert again.sites == decide_raised(policy, asked, raised(asked, policy, found if looks else {})).sites
    change = compare(again, policy)
    assert change.kind in (Kind.UNCHANGED_ALLOWED, Kind.UNCHANGED_DENIED)  # type: ignore[union-attr]


@pytest.mark.parametrize("lost", ["class_asked", "at", "places", "looked_for", "classified", "tags_asked"])
def test_each_fact_is_needed(lost: str) -> None:
    """The negative control: without one of them the answer differs, or there is none."""
    policy = compile_policy(document(allow(data_classes=["secret"], tags=["personal"]), classifier=LOOKS))
    asked = ask(data_class="", at=1_767_610_800)
    event = msgspec.json.decode(written(policy, asked, {"email": 1}))
    whole = past(TENANT, recorded(msgspec.json.encode(event)))
    del event["details"][lost]
    assert past(TENANT, recorded(msgspec.json.encode(event))) != whole
