"""The policy document: checked against its published JSON Schema for people, read into structures for programs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from jsonschema import Draft202012Validator, ValidationError, validators

from inference_worker.contract import canonical
from inference_worker.contract.printable import escaped, first_unprintable, named
from kasbah.common.errors import Invalid
from kasbah.residency.jurisdictions import CODES
from kasbah.residency.windows import Window, WindowInvalid, span

SCHEMA_FILE = Path(__file__).with_name("policy.schema.json")
ALL = "*"
MAX_BYTES = 1024 * 1024
SHOWN = 50  # problems
Named = Literal["public", "internal", "confidential", "secret"]  # a data class
CLASSES: tuple[str, ...] = get_args(Named)  # from least to most sensitive; those of identity's DataClass


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a document: `path` is a JSON Pointer (RFC 6901), "" the whole document.

    `line` is the line of the text that it was read from, counted from 1; 0 when it was not read from a text.
    """

    path: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        line = f"line {self.line}: " if self.line else ""
        return f"{line}{self.path or 'document'}: {self.message}"


class PolicyInvalid(Invalid):
    """A policy that cannot be taken; `problems` lists everything that is wrong with it."""

    code = "policy_invalid"

    def __init__(self, problems: list[Problem]) -> None:
        more = f" And {len(problems) - 3} more." if len(problems) > 3 else ""
        super().__init__(
            "The policy cannot be taken: " + "; ".join(map(str, problems[:3])) + "." + more, param="document"
        )
        self.problems = problems


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule; see the schema for what its conditions mean. An empty tuple is a condition that is not given."""

    id: str
    effect: str
    description: str = ""
    data_classes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    jurisdictions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how many days sealed content must at least and may at most be kept."""

    floor_days: int = 0
    ceiling_days: int


class Classifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for in prompts, and what a request is then taken to be: also so tagged, and `at_least` of a class
    ("": of the class it has)."""

    detect: tuple[str, ...]
    tags: tuple[str, ...] = ()
    at_least: Named | Literal[""] = ""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole policy document."""

    version: int
    rules: tuple[Rule, ...]
    description: str = ""
    strictest: Named = "secret"
    content: dict[str, Literal["none", "commitment", "sealed"]] = {}
    retention: dict[str, Retention] = {}
    approval: Literal["loosening", "always"] = "loosening"
    classifier: Classifier | None = None


def schema() -> dict[str, Any]:
    """The published JSON Schema."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return loaded


def read(document: Mapping[str, Any]) -> Document:
    """The document as structures. Fields that this version does not know are refused: ignoring a condition
    would widen a rule. Raises PolicyInvalid."""
    try:
        found = msgspec.convert(document, Document)
    except msgspec.ValidationError as error:
        raise PolicyInvalid([Problem("", str(error))]) from error
    if found.version != 1:
        raise PolicyInvalid([Problem("/version", f"{found.version} is not a version that this Kasbah reads (1)")])
    return found


def validate(document: object) -> list[Problem]:
    """Everything that is wrong with a document, at most 50 problems; an empty list means that it can be taken."""
    try:
        if len(canonical.dumps(document)) > MAX_BYTES:
            return [Problem("", f"it is over {MAX_BYTES} bytes")]
    except (canonical.NotCanonical, RecursionError, UnicodeEncodeError) as error:
        return [Problem("", f"it has a value that no policy has: {error}")]
    structural = [
        Problem(escaped(_pointer(_place(error))), escaped(_message(error)))
        for error in islice(_validator().iter_errors(document), SHOWN)
    ]
    if structural or not isinstance(document, Mapping):
        return structural
    if unprintable := list(islice(_unprintable(document, ""), SHOWN)):
        return unprintable
    try:
        return list(islice(_contradictions(read(document)), SHOWN))
    except PolicyInvalid as error:
        return error.problems


def _unprintable(value: object, pointer: str) -> Iterator[Problem]:
    """Texts, keys too, that would change how what is printed around them is shown."""
    if isinstance(value, str):
        if (at := first_unprintable(value)) is not None:
            message = f"character {at + 1} is {named(value[at])}, which is not taken; leave it out"
            yield Problem(escaped(pointer), message)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            place = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
            yield from _unprintable(str(key), place)
            yield from _unprintable(item, place)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _unprintable(item, f"{pointer}/{index}")


def _pattern(validator: Any, pattern: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    # JSON Schema's `$` is the end of the text (ECMA-262); Python's also matches before a last line break.
    if isinstance(instance, str) and (instance.endswith("\n") or not re.search(pattern, instance)):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _validator() -> Any:
    kind = validators.extend(Draft202012Validator, {"pattern": _pattern})
    kind.check_schema(schema())
    return kind(schema())


def _pointer(path: Any) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _place(error: ValidationError) -> list[str | int]:
    """Where it is wrong: a field that nobody knows rather than what it stands in."""
    place = list(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        place += [name for name in error.instance if name not in error.schema.get("properties", {})][:1]
    return place


def _message(error: ValidationError) -> str:
    """In words that name the value and the way out; the validator's own would print whole rules."""
    value, expected = error.instance, error.validator_value
    match error.validator:
        case "const" | "enum":
            allowed = [expected] if error.validator == "const" else expected
            text = f"{_shown(value)} is not one of {', '.join(map(str, allowed))}"
        case "additionalProperties" if isinstance(value, dict):
            known = error.schema.get("properties", {})
            unknown = ", ".join(_shown(name) for name in value if name not in known)
            text = f"no such field: {unknown}. Known: {', '.join(known)}"
        case "required":
            missing = ", ".join(name for name in expected if name not in value)
            text = f"{missing} is required" + (" in a rule that allows" if "models" in expected else "")
        case "anyOf":
            names = [name for option in expected for name in option["required"]]
            text = f"{'a rule that allows' if 'sites' in names else 'it'} names {_alternatives(names)}"
        case "pattern":
            text = f"{_shown(value)} is not {error.schema.get('description', 'written as ' + expected)}"
        case "minProperties":
            text = "it says nothing; leave it out"
        case "minItems":
            text = "an empty list would never apply; leave the field out"
        case _:
            text = error.message if len(error.message) <= 200 else f"breaks {error.validator}: {_shown(expected)}"
    return text


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _contradictions(document: Document) -> Iterator[Problem]:
    """What the schema cannot say."""
    counted = Counter(rule.id for rule in document.rules)
    beyond = set(CLASSES[CLASSES.index(document.strictest) + 1 :])
    for index, rule in enumerate(document.rules):
        place = f"/rules/{index}"
        if counted[rule.id] > 1:
            yield Problem(f"{place}/id", f"{rule.id} names {counted[rule.id]} rules; give each its own id")
        for name in sorted(beyond.intersection(rule.data_classes)):
            message = f"{name} is stricter than the strictest class, {document.strictest}; raise `strictest`"
            yield Problem(f"{place}/data_classes", message)
        for code in rule.jurisdictions:
            if code != ALL and code not in CODES:
                yield Problem(f"{place}/jurisdictions", f"{code} is not a country code of ISO 3166-1 alpha-2")
        yield from _windows(place, rule)
    if document.classifier is not None and document.classifier.at_least in beyond:
        message = f"{document.classifier.at_least} is stricter than the strictest class, {document.strictest}"
        yield Problem("/classifier/at_least", message)
    yield from _kept(document)


def _windows(place: str, rule: Rule) -> Iterator[Problem]:
    for index, window in enumerate(rule.windows):
        try:
            span(window)
        except WindowInvalid as error:
            yield Problem(f"{place}/windows/{index}" + (f"/{error.field}" if error.field else ""), str(error))


def _kept(document: Document) -> Iterator[Problem]:
    for name in sorted(name for name, kept in document.content.items() if kept == "sealed"):
        if name not in document.retention:
            yield Problem(f"/content/{name}", "content that is kept needs a retention for its class")
    for name, retention in sorted(document.retention.items()):
        if retention.floor_days > retention.ceiling_days:
            yield Problem(f"/retention/{name}/floor_days", "what must be kept longer than it may be cannot be kept")


def _alternatives(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
