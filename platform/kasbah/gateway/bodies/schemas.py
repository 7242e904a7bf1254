"""JSON Schemas in a request: what an engine could not turn into a grammar, or only at the cost of everybody else.

An engine compiles a schema into a grammar over its vocabulary while it serves others. Size and form are checked here,
before anything is sent; how long compiling takes is seen at the worker (inference_worker/engine/grammars.py). Limits
hold for all schemas of one request together, since one request may bring a hundred tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies.base import read_raw, written
from kasbah.gateway.bodies.schema_graph import SchemaGraph, SchemaNode, invalid_schema

MAX_BYTES = 256 * 1024
MAX_SENT = 512 * 1024  # bytes as they came, with spaces and escapes
MAX_DEPTH = 64  # objects and lists within each other; vLLM's own limit
MAX_SCHEMAS = 5000  # subschemas
MAX_PROPERTIES = 1000
MAX_ENUM = 2000  # values of enums
MAX_REFERENCES = 500
MAX_PATTERN = 1000  # characters of one
MAX_REPEAT = 10_000  # minLength, maxItems and the like, which a grammar may write out

_OBJECT = msgspec.json.Decoder(dict[str, Any])
_REPEATS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_UNKNOWN_REFERENCES = ("$dynamicRef", "$recursiveRef")


class SchemaBudget:
    """Checks the schemas of one request and counts what they have together."""

    def __init__(self) -> None:
        self._sent = self._bytes = self._schemas = self._properties = self._values = self._references = 0

    def read(self, raw: msgspec.Raw, where: str) -> msgspec.Raw:
        """The schema that was sent as the field `where`, as it was understood, NOT_SENT without one. Raises Invalid
        where it is too large, before anything is made of it, or cannot be followed."""
        self._sent += len(bytes(raw))
        _at_most(self._sent, MAX_SENT, "bytes of schemas, with spaces", where)
        schema = read_raw(_OBJECT, raw, MAX_SENT, where)
        understood = written(schema)
        self._bytes += len(bytes(understood))
        _at_most(self._bytes, MAX_BYTES, "bytes of schemas", where)
        if schema is not None:
            self._check(schema, where)
        return understood

    def _check(self, schema: Mapping[str, Any], where: str) -> None:
        _check_depth(schema, where)
        graph = SchemaGraph(schema, where)
        for node in graph.nodes():
            self._count(node)
            _check_values(node)
        graph.check_recursion()

    def _count(self, node: SchemaNode) -> None:
        fields = node.fields
        self._schemas += 1
        _at_most(self._schemas, MAX_SCHEMAS, "schemas within schemas", node.place)
        for name in ("properties", "patternProperties"):
            self._properties += _length(fields.get(name))
        _at_most(self._properties, MAX_PROPERTIES, "properties in schemas", node.place)
        self._values += _length(fields.get("enum"))
        _at_most(self._values, MAX_ENUM, "values in enums", node.place)
        self._references += "$ref" in fields
        _at_most(self._references, MAX_REFERENCES, "references in schemas", node.place)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


def _at_most(count: int, most: int, what: str, where: str) -> None:
    if count > most:
        raise _too_complex(f"A request has at most {most} {what}.", where)


def _too_complex(message: str, where: str) -> Invalid:
    return Invalid(f"{message} Simplify the schema.", param=where, code="schema_too_complex")


def _check_depth(schema: Mapping[str, Any], where: str) -> None:
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_complex(f"A schema is nested at most {MAX_DEPTH} levels deep.", where)
        inner = value.values() if isinstance(value, dict) else value
        waiting.extend((item, depth + 1) for item in inner if isinstance(item, (dict, list)))


def _check_values(node: SchemaNode) -> None:
    fields = node.fields
    patterns = fields.get("patternProperties")
    for pattern in (fields.get("pattern"), *(patterns if isinstance(patterns, dict) else ())):
        if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
            raise _too_complex(f"A pattern has at most {MAX_PATTERN} characters.", node.place)
    for name in _REPEATS:
        count = fields.get(name)
        if isinstance(count, (int, float)) and count > MAX_REPEAT:
            raise _too_complex(f"{name} is at most {MAX_REPEAT}.", f"{node.place}.{name}")
    if isinstance(fields.get("enum"), list) and not fields["enum"]:
        raise invalid_schema("An enum has at least one value.", f"{node.place}.enum")
    for name in _UNKNOWN_REFERENCES:
        if name in fields:
            raise invalid_schema(f"{name} is not supported; use $ref.", f"{node.place}.{name}")
