"""The administrator's guide: its example is a policy, and does what the text says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kasbah.residency.document import schema
from kasbah.residency.services import compile_policy, decide, validate

from .documents import LYON, PARIS, RABAT, ask

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


def test_the_guide_names_every_field() -> None:
    rule = set(schema()["$defs"]["rule"]["properties"]) - {"id", "effect", "description"}
    named = set(re.findall(r"`(\w+)`", GUIDE))
    assert rule <= named
    assert {"content", "retention", "strictest"} <= named
