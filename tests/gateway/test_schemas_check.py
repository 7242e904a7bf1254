"""Schemas that no engine could follow, or only at everybody's cost, are refused before anything is sent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies import base, chat, schemas, tokenize
from kasbah.gateway.bodies.schema_graph import find_endless

NODE = {"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}}}


def thing(properties: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **fields}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = thing({"a": schema})
    return schema


def in_format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def in_tool(schema: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


def refusal(fields: dict[str, Any], decoder: Any = chat.DECODER) -> Invalid | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    try:
        base.decode(decoder, json.dumps(body).encode()).check(2048)
    except Invalid as error:
        return error
    return None


REFERS = [
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}, "$ref": "#/$defs/a"},
    {"allOf": [{"$ref": "#"}]},
    {"$ref": "#/$defs/node", **NODE},
    thing({"x": {"$ref": "#"}}, required=["x"]),
    thing({"x": {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/node"}]}}, required=["x"], **NODE),
    thing({"x": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}}, required=["x"]),
    thing({"x": False}, required=["x"]),
    {"anyOf": [False, False]},
    {"$ref": "#/$defs/none"},
    {"$ref": "#/properties/x/enum", "properties": {"x": {"enum": [1]}}},
    {"$ref": "https://example.org/schema"},
    {"$ref": "other.json#/a"},
    {"$ref": "#anchor"},
    {"$ref": 5},
    {"$dynamicRef": "#a"},
    {"properties": [1]},
    {"anyOf": {"a": 1}},
    {"items": 5},
    {"enum": []},
]


@pytest.mark.parametrize("schema", REFERS, ids=json.dumps)
def test_a_schema_that_nothing_can_follow_is_named(schema: dict[str, Any]) -> None:
    for fields, place in (
        (in_format(schema), "response_format.json_schema.schema"),
        (in_tool(schema), "tools[0].function.parameters"),
    ):
        error = refusal(fields)
        assert error is not None
        assert (error.status, error.code) == (400, "invalid_schema")
        assert (error.param or "").startswith(place)
    assert refusal(in_tool(schema), tokenize.DECODER) is not None


FOLLOWED = [
    {},
    thing({"children": {"type": "array", "items": {"$ref": "#"}}}, required=["children"]),
    thing({"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, required=["next"]),
    thing({"next": {"$ref": "#"}}),
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}},
    {"$ref": "#/components/x", "components": {"x": {"type": "string"}}},
    thing({"$ref": {"type": "string"}, "enum": {"const": []}, "required": True}),
    {"const": {"$ref": "#/nowhere", "properties": [1]}},
    {"enum": [{"$ref": "no"}]},
    {"items": [{"type": "string"}, True], "type": "array"},
    {"type": ["object", "null"], "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    thing({f"p{number}": {"type": "string"} for number in range(900)}),
    {"enum": [f"value {number}" for number in range(2000)]},
    nested(30),
    thing({"a.b": thing({"c": {"type": "string"}}), "a": thing({"b.c": {"type": "string"}})}),
]


@pytest.mark.parametrize("schema", FOLLOWED, ids=lambda schema: json.dumps(schema)[:60])
def test_a_schema_that_can_be_followed_passes(schema: dict[str, Any]) -> None:
    assert refusal(in_format(schema)) is None
    assert refusal(in_tool(schema)) is None


LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "bytes": ("MAX_BYTES", {"description": "x" * 300_000}),
    "depth": ("MAX_DEPTH", nested(40)),
    "depth of a constant": ("MAX_DEPTH", {"const": json.loads("[" * 80 + "]" * 80)}),
    "schemas": ("MAX_SCHEMAS", {"anyOf": [{}] * 6000}),
    "properties": ("MAX_PROPERTIES", thing({f"p{number}": {} for number in range(3000)})),
    "properties by patterns": ("MAX_PROPERTIES", {"patternProperties": {f"p{number}": {} for number in range(3000)}}),
    "enum": ("MAX_ENUM", {"enum": list(range(40_000))}),
    "enums together": ("MAX_ENUM", thing({f"p{number}": {"enum": list(range(30))} for number in range(100)})),
    "references": ("MAX_REFERENCES", {"anyOf": [{"$ref": "#/$defs/a"}] * 600, "$defs": {"a": {}}}),
    "a pattern": ("MAX_PATTERN", {"type": "string", "pattern": "a" * 1001}),
    "a pattern of names": ("MAX_PATTERN", {"patternProperties": {"a" * 1001: {}}}),
    "a length": ("MAX_REPEAT", {"type": "string", "maxLength": 1_000_000}),
    "a count": ("MAX_REPEAT", {"type": "array", "minItems": 1e9}),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_schema_beyond_a_limit_is_named_and_its_limit_is_the_cause(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, schema = LARGE[name]
    for fields in (in_format(schema), in_tool(schema)):
        started = time.thread_time()
        error = refusal(fields)
        assert time.thread_time() - started < 0.5
        assert error is not None
        assert (error.status, error.code) == (400, "schema_too_complex")
    # The control: without the limit it passes.
    monkeypatch.setattr(schemas, limit, 10**10)
    assert refusal(in_format(schema)) is None


def test_limits_hold_for_all_tools_together() -> None:
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": {"enum": list(range(100))}}}
        for number in range(30)
    ]
    error = refusal({"tools": tools})
    assert error is not None
    assert (error.code, error.param) == ("schema_too_complex", "tools[20].function.parameters")


@pytest.mark.slow
@pytest.mark.parametrize(
    "schema",
    [
        thing({"k" * 3000 + str(number): {"$ref": "#"} for number in range(80)}),
        {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(499)} | {"d499": {}}, "$ref": "#/$defs/d0"},
        {"anyOf": [{"anyOf": [{"type": "string"}] * 60} for _ in range(80)]},
        {"$ref": "#/" + "a/" * 100_000},
    ],
)
def test_checking_takes_little_time(schema: dict[str, Any]) -> None:
    def seconds() -> float:
        started = time.thread_time()
        refusal(in_format(schema))
        return time.thread_time() - started

    assert any(seconds() < 0.25 for _ in range(3))  # a neighbour on the same core makes it slower, never faster


GRAPHS = st.dictionaries(
    st.integers(0, 7), st.lists(st.lists(st.integers(0, 7), max_size=3), max_size=3), min_size=1, max_size=8
)


@given(GRAPHS)
@settings(max_examples=300, deadline=None)
def test_what_ends_is_the_least_fixed_point(graph: dict[int, list[list[int]]]) -> None:
    known = {node: [[other for other in need if other in graph] for need in needs] for node, needs in graph.items()}
    ends: set[int] = set()
    while more := {n for n, needs in known.items() if n not in ends and all(ends & set(need) for need in needs)}:
        ends |= more
    assert find_endless(known) == set(known) - ends


def test_the_reference_names_every_limit() -> None:
    page = (Path(__file__).parents[2] / "docs" / "developer" / "reference.md").read_text()
    table = page.partition("## Schemas")[2].partition("\n## ")[0]
    limits = {name: value for name, value in vars(schemas).items() if name.startswith("MAX_")}
    assert [
        name for name, value in limits.items() if f"| {value:,} |" not in table and f"| {value} |" not in table
    ] == []
