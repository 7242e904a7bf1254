"""The administrator's guide: its example is a policy, and does what the text says of it."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kasbah.residency.document import schema
from kasbah.residency.services import compile_policy, decide, validate, validate_text

from .documents import LYON, PARIS, RABAT, TOKYO, ask

GUIDE = (Path(__file__).parents[2] / "docs" / "administrator" / "policies.md").read_text()
EXAMPLE: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", GUIDE, re.S)[0])


@pytest.mark.parametrize(
    ("question", "sites"),
    [
        ({"data_class": "internal", "tags": ("personal",)}, (PARIS, LYON)),
        ({"data_class": "internal"}, (PARIS, LYON, RABAT)),
        ({"data_class": "confidential", "tags": ("personal",)}, (PARIS, LYON)),
        ({"data_class": "confidential", "tags": ("personal",), "model": "qwen"}, ()),
        ({"data_class": "internal", "tags": ("personal", "health")}, ()),
        ({"data_class": "secret"}, ()),
        ({"data_class": ""}, ()),
    ],
)
def test_the_example_does_what_the_guide_says(question: dict[str, Any], sites: tuple[Any, ...]) -> None:
    assert validate(EXAMPLE) == []
    assert decide(compile_policy(EXAMPLE), ask(**question)).sites == sites


@pytest.mark.parametrize(
    ("when", "question", "sites"),
    [
        ("2026-01-05T09:00:00+09:00", {}, (PARIS, LYON, TOKYO)),
        ("2026-01-05T18:00:00+09:00", {}, (PARIS, LYON)),
        ("2026-01-04T09:00:00+09:00", {}, (PARIS, LYON)),
        ("2028-01-03T09:00:00+09:00", {}, (PARIS, LYON)),
        ("2026-01-05T09:00:00+09:00", {"tags": ("personal",)}, (PARIS, LYON)),
        ("1970-01-01T00:00:00Z", {}, (PARIS, LYON)),
    ],
)
def test_the_example_of_times_does_what_the_guide_says(
    when: str, question: dict[str, Any], sites: tuple[Any, ...]
) -> None:
    document, problems = validate_text(re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)[0])
    assert document is not None
    assert problems == []
    at = int(datetime.fromisoformat(when).timestamp())
    assert decide(compile_policy(document), ask(model="chat", at=at, **question)).sites == sites


def test_the_guide_names_every_field() -> None:
    published = schema()
    rule = set(published["$defs"]["rule"]["properties"]) - {"id", "effect", "description"}
    named = set(re.findall(r"`(\w+)`", GUIDE))
    assert rule <= named
    assert set(published["properties"]) - {"version", "description", "rules"} <= named
    assert set(published["$defs"]["window"]["properties"]) <= named
