"""A JSON Schema as a graph of its subschemas: who contains whom, whom a reference names, and whether a value can end.

Places (`$defs`, properties named like a path) are no identities, and long ones would cost more than the schema itself:
nodes know their parents, and a place is written only for a message.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

from kasbah.common.errors import Invalid

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_IN_PLACE = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"})  # about the same value
LONGEST_PLACE = 200  # characters

Child = tuple[str, str, "SchemaNode | bool"]  # its keyword, its key there, and itself
Key = TypeVar("Key", bound=Hashable)


class SchemaNode:
    """A subschema that is an object. `label` is what leads to it from its parent."""

    def __init__(self, fields: Mapping[str, Any], parent: SchemaNode | None, label: str) -> None:
        self.fields = fields
        self.children: list[Child] = []
        self._parent, self._label = parent, label

    @property
    def place(self) -> str:
        """For a message, its end cut off where it is long."""
        labels, node = list[str](), self
        while node._parent is not None:
            labels.append(node._label[:LONGEST_PLACE])
            node = node._parent
        text = node._label + "".join(reversed(labels))
        return text if len(text) <= LONGEST_PLACE else text[:LONGEST_PLACE] + "..."

    def under(self, keyword: str) -> list[SchemaNode | bool]:
        """Its children by one keyword."""
        return [child for name, _, child in self.children if name == keyword]

    def same_value(self) -> list[SchemaNode]:
        """Its children that speak about the same value as it does itself."""
        return [child for name, _, child in self.children if name in _IN_PLACE and isinstance(child, SchemaNode)]


def invalid_schema(message: str, where: str) -> Invalid:
    """A schema that cannot be followed."""
    return Invalid(message, param=where, code="invalid_schema")


class SchemaGraph:
    """All nodes of a schema. What stands in an enum, a const or an example is none, unless a reference names it.

    `nodes` walks and yields them, so that whoever counts can end it early; then the graph is whole. Raises Invalid.
    """

    def __init__(self, schema: Mapping[str, Any], where: str) -> None:
        self.root = SchemaNode(schema, None, where)
        self._known = {id(schema): self.root}
        self._waiting = [self.root]

    def nodes(self) -> Iterator[SchemaNode]:
        """Each node once, with its children."""
        while self._waiting:
            node = self._waiting.pop()
            yield node
            node.children = list(self._children(node))

    def check_recursion(self) -> None:
        """Raise Invalid for a schema that refers to itself where no value can end: it may contain itself in a list that
        may be empty, in a property that may be left out, beside another alternative."""
        cycle = find_cycle({node: node.same_value() for node in self._known.values()})
        if cycle is not None:
            raise invalid_schema("This schema refers to itself with nothing in between: it says nothing.", cycle.place)
        endless = find_endless({node: list(_needs(node)) for node in self._known.values()})
        if self.root in endless:
            raise invalid_schema(
                "No value can follow this schema: it contains itself, or false, and nothing ends it.", self.root.place
            )

    def _children(self, node: SchemaNode) -> Iterator[Child]:
        for keyword, key, value, label in _subschemas(node):
            yield keyword, key, self._node(value, node, label)
        if "$ref" in node.fields:
            yield "$ref", "", self._node(self._target(node), node, ".$ref")

    def _node(self, value: Any, parent: SchemaNode, label: str) -> SchemaNode | bool:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise invalid_schema("A schema is an object, or true or false.", SchemaNode({}, parent, label).place)
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = SchemaNode(value, parent, label)
            self._waiting.append(known)
        return known

    def _target(self, node: SchemaNode) -> Any:
        """What a reference names: `#`, or `#/` and a JSON pointer (RFC 6901) into the same schema."""
        reference, where = node.fields["$ref"], f"{node.place}.$ref"
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise invalid_schema("A $ref is '#' or begins with '#/': nothing is fetched, nor is $anchor known.", where)
        value: Any = self.root.fields
        for escaped in unquote(reference).split("/")[1:]:
            key = escaped.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(value):
                value = value[int(key[:9])]
            else:
                raise invalid_schema("This $ref names nothing in its schema.", where)
        return value


def _subschemas(node: SchemaNode) -> Iterator[tuple[str, str, Any, str]]:
    """Keyword, key, value and label of each."""
    fields = node.fields
    for name in _MAPS:
        values = fields.get(name, {})
        if not isinstance(values, dict):
            raise invalid_schema(f"{name} is an object.", f"{node.place}.{name}")
        yield from ((name, key, value, f".{name}.{key[:LONGEST_PLACE]}") for key, value in values.items())
    for name in (*_LISTS, "items"):  # a list of items is an older form of prefixItems
        values = fields.get(name, [])
        if isinstance(values, list):
            yield from ((name, "", value, f".{name}[{index}]") for index, value in enumerate(values))
        elif name != "items":
            raise invalid_schema(f"{name} is a list of schemas.", f"{node.place}.{name}")
    for name in _SINGLE:
        if name in fields and not isinstance(fields[name], list):
            yield name, "", fields[name], f".{name}"


def _needs(node: SchemaNode) -> Iterator[list[SchemaNode]]:
    """What must have an end for a value of this schema to have one: of each list, one."""
    fields = node.fields
    if "const" in fields or "enum" in fields:
        return
    needs = [[child] for keyword in ("$ref", "allOf") for child in node.under(keyword)]
    needs += [node.under(keyword) for keyword in ("anyOf", "oneOf") if fields.get(keyword)]
    kind, required, fewest = fields.get("type"), fields.get("required"), fields.get("minItems")
    if isinstance(required, list) and (kind == "object" or (kind is None and "properties" in fields)):
        names = {name for name in required if isinstance(name, str)}
        needs += [[child] for name, key, child in node.children if name == "properties" and key in names]
    if isinstance(fewest, (int, float)) and fewest >= 1 and (kind == "array" or (kind is None and "items" in fields)):
        needs += [[child] for child in (*node.under("prefixItems"), *node.under("items"))][: int(min(fewest, 10**6))]
    for need in needs:
        if True not in need:
            yield [child for child in need if isinstance(child, SchemaNode)]


def find_cycle(edges: Mapping[Key, Iterable[Key]]) -> Key | None:
    """A node that is reached from itself, or None."""
    done: set[Key] = set()
    for start in edges:
        way: dict[Key, Iterator[Key]] = {}
        following = start
        while True:
            if following in way:
                return following
            if following not in done:
                way[following] = iter(edges[following])
            step = None
            while way:
                last = next(reversed(way))
                step = next(way[last], None)
                if step is not None:
                    break
                done.add(last)
                del way[last]
            if step is None:
                break
            following = step
    return None


def find_endless(needs: Mapping[Key, list[list[Key]]]) -> set[Key]:
    """Nodes of which no value ends: at least one of their needs is met by no node whose values end. Linear in needs."""
    waiting: dict[Key, list[tuple[Key, int]]] = defaultdict(list)
    for node, wanted in needs.items():
        for number, alternatives in enumerate(wanted):
            for alternative in alternatives:
                waiting[alternative].append((node, number))
    unmet = {node: set(range(len(wanted))) for node, wanted in needs.items()}
    ending = [node for node, missing in unmet.items() if not missing]
    endless = set(needs) - set(ending)
    while ending:
        for node, number in waiting[ending.pop()]:
            unmet[node].discard(number)
            if not unmet[node] and node in endless:
                endless.discard(node)
                ending.append(node)
    return endless
