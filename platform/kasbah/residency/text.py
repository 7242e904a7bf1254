"""Policies as people write them: YAML or JSON, with the line of whatever is wrong.

Of YAML 1.2 only what means one thing is taken: mappings with text as keys, lists, text, whole numbers, true, false
and null, as its core schema writes them (so `NO` is Norway, not false, and `08:00` is text). What can hide or multiply
content is refused: anchors, aliases, tags, directives, merges, several documents. A text that begins with `{` or `[`
is JSON.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import yaml

from inference_worker.contract.printable import first_unprintable, named
from kasbah.residency.document import MAX_BYTES, PolicyInvalid, Problem, validate

MAX_DEPTH = 20  # a policy has seven levels
LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # only its events are used
WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
INTEGER = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII
)
JSON_TOKEN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null", re.ASCII)
JSON_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class SourceMap:
    """Where each value of a document stands in its text, by JSON Pointer."""

    lines: Mapping[str, int]

    def line(self, pointer: str) -> int | None:
        """The line, counted from 1, of the value there or, when there is none, of what it would stand in."""
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return self.lines.get(pointer)


class Refused(Exception):
    """What is read is no policy; `line` is counted from 1."""

    def __init__(self, pointer: str, message: str, line: int) -> None:
        super().__init__(message)
        self.problem = Problem(pointer, message, line)


def parse(text: str, *, name: str = "policy") -> tuple[dict[str, Any], SourceMap]:
    """The document in a text, not yet validated, and where its values stand; `name` is what messages call the text.

    Raises PolicyInvalid.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise PolicyInvalid([Problem("", f"the {name} is over {MAX_BYTES} bytes")])
    text = text.removeprefix("\ufeff")
    reader = JsonReader(text) if text.lstrip()[:1] in {"{", "["} else YamlReader(text)
    try:
        document = reader.read()
    except Refused as error:
        raise PolicyInvalid([error.problem]) from error
    if not isinstance(document, dict):
        raise PolicyInvalid([Problem("", f"the {name} must be a mapping with the fields version and rules", 1)])
    return document, SourceMap(reader.lines)


def validate_text(text: str) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The document, and everything that is wrong with it, with lines. None: it cannot be read at all."""
    try:
        document, source = parse(text)
    except PolicyInvalid as error:
        return None, error.problems
    if (found := check_source(text)) is not None:
        return document, [found]
    return document, [replace(problem, line=source.line(problem.path) or 0) for problem in validate(document)]


def check_source(text: str) -> Problem | None:
    """What stands against the text itself, comments and all: they are shown to whoever approves it."""
    if (at := first_unprintable(text.removeprefix("\ufeff"), lines=True)) is None:
        return None
    character = text.removeprefix("\ufeff")[at]
    return Problem("", f"character {named(character)} is not taken; leave it out", text.count("\n", 0, at + 1) + 1)


def below(pointer: str, part: str | int) -> str:
    """The JSON Pointer of a member of what stands at `pointer`."""
    return f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"


class YamlReader:
    """Reads one YAML document from its events, so that nothing is resolved or constructed that is not wanted."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self._events: Iterator[Any] = yaml.parse(text, Loader=LOADER)

    def read(self) -> Any:
        """The value. Raises Refused."""
        try:
            next(self._events)  # the stream starts
            start = next(self._events)
            if isinstance(start, yaml.StreamEndEvent):
                raise Refused("", "it is empty", 1)
            if start.version or start.tags:
                raise Refused("", "directives (%) are not used in policies", start.start_mark.line + 1)
            value = self._value(next(self._events), "", 0)
            next(self._events)  # the document ends
            after = next(self._events)
        except yaml.YAMLError as error:
            raise _not_yaml(error) from error
        if not isinstance(after, yaml.StreamEndEvent):
            raise Refused("", "a second document begins; a policy is one", after.start_mark.line + 1)
        return value

    def _value(self, event: Any, pointer: str, depth: int, *, is_key: bool = False) -> Any:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise Refused(pointer, "anchors (&) and aliases (*) are not used in policies; write it out", line)
        if event.tag:
            raise Refused(pointer, "tags (!) are not used in policies; put text that has one in quotes", line)
        if isinstance(event, yaml.ScalarEvent):
            if not is_key:
                self.lines[pointer] = line
            return event.value if not event.implicit[0] else _plain(event.value, pointer, line)
        self.lines.setdefault(pointer, line)
        if depth >= MAX_DEPTH:
            raise Refused(pointer, f"it is nested over {MAX_DEPTH} levels deep", line)
        return (
            self._mapping(pointer, depth) if isinstance(event, yaml.MappingStartEvent) else self._list(pointer, depth)
        )

    def _list(self, pointer: str, depth: int) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, below(pointer, len(found)), depth + 1))
        return found

    def _mapping(self, pointer: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self._value(event, pointer, depth, is_key=True) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                raise Refused(pointer, "a key that is not text; put it in quotes", line)
            place = below(pointer, key)
            if key in found:
                raise Refused(place, "it is there twice", line)
            self.lines[place] = line  # a list or mapping is found by its key
            found[key] = self._value(next(self._events), place, depth + 1)
        return found


def _plain(text: str, pointer: str, line: int) -> Any:
    """What text without quotes means in the core schema of YAML 1.2."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        raise Refused(pointer, f"{text[:20]} is not a whole number of at most 18 digits; text goes in quotes", line)
    return text


def _not_yaml(error: yaml.YAMLError) -> Refused:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    where = f", column {mark.column + 1}" if mark else ""
    return Refused("", f"not YAML{where}: {what}", mark.line + 1 if mark else 0)


class JsonReader:
    """Reads one JSON document (RFC 8259), remembering the lines."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def read(self) -> Any:
        """The value. Raises Refused."""
        value, at = self._value(self._skip(0), "", 0)
        if at < len(self._text):
            raise self._refuse(at, "something follows the document")
        return value

    def _line(self, at: int) -> int:
        return bisect_right(self._starts, at)

    def _refuse(self, at: int, message: str) -> Refused:
        line = self._line(at)
        return Refused("", f"not JSON, column {at - self._starts[line - 1] + 1}: {message}", line)

    def _skip(self, at: int) -> int:
        found = JSON_SPACE.match(self._text, at)
        return found.end() if found else at

    def _value(self, at: int, pointer: str, depth: int) -> tuple[Any, int]:
        """The value that begins at `at`, and where what follows it begins."""
        line = self.lines[pointer] = self._line(at)
        value: Any
        mark = self._text[at : at + 1]
        if mark in {"{", "["} and depth >= MAX_DEPTH:
            raise Refused(pointer, f"it is nested over {MAX_DEPTH} levels deep", line)
        if mark == "{":
            value, at = self._object(at, pointer, depth)
        elif mark == "[":
            value, at = self._array(at, pointer, depth)
        elif mark == '"':
            value, at = self._string(at)
        else:
            value, at = self._word(at, pointer)
        return value, self._skip(at)

    def _word(self, at: int, pointer: str) -> tuple[Any, int]:
        found = JSON_TOKEN.match(self._text, at)
        if found is None:
            raise self._refuse(at, "a value is expected")
        return _plain(found[0], pointer, self._line(at)), found.end()

    def _string(self, at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self._text, at + 1, True)
        except JSONDecodeError as error:
            raise self._refuse(error.pos, error.msg) from error
        return str(value), int(end)

    def _array(self, at: int, pointer: str, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self._skip(at + 1)
        if self._text[at : at + 1] == "]":
            return found, at + 1
        while True:
            value, at = self._value(at, below(pointer, len(found)), depth + 1)
            found.append(value)
            if not self._more(at, "]"):
                return found, at + 1
            at = self._skip(at + 1)

    def _object(self, at: int, pointer: str, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = self._skip(at + 1)
        if self._text[at : at + 1] == "}":
            return found, at + 1
        while True:
            if self._text[at : at + 1] != '"':
                raise self._refuse(at, "a name in double quotes is expected")
            key, after = self._string(at)
            place = below(pointer, key)
            if key in found:
                raise Refused(place, "it is there twice", self._line(at))
            after = self._skip(after)
            if self._text[after : after + 1] != ":":
                raise self._refuse(after, "a colon is expected")
            found[key], at = self._value(self._skip(after + 1), place, depth + 1)
            if not self._more(at, "}"):
                return found, at + 1
            at = self._skip(at + 1)

    def _more(self, at: int, end: str) -> bool:
        mark = self._text[at : at + 1]
        if mark not in {",", end} or not mark:
            raise self._refuse(at, f"a comma or {end} is expected")
        return mark == ","
