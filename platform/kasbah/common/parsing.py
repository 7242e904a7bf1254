"""Request bodies as JSON that every program reads alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from kasbah.common.errors import Invalid, TooLarge

BODY_LIMIT = 1024 * 1024  # bytes
MOST_BRACKETS = 20_000  # lists and objects, and such signs in texts: a mebibyte of empty lists takes 0.15 s to parse
MOST_FIELDS = 1000  # of one object; each that is unknown would be an error of its own
MOST_DIGITS = 20  # of a whole number: 64 bits and a sign
MOST_NAME = 200  # characters of a field's path in an error


class StrictJSONParser(JSONParser):
    """JSON that every program reads alike: bounded, UTF-8, no duplicate keys, no NaN, no text that cannot be stored."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """The value of the body. Raises ParseError, TooLarge."""
        data = stream.read(BODY_LIMIT + 1)
        if len(data) > BODY_LIMIT:
            raise TooLarge(f"The body is over {BODY_LIMIT} bytes.")
        if data.count(b"[") + data.count(b"{") > MOST_BRACKETS:
            raise ParseError(f"it has more than {MOST_BRACKETS} lists and objects")
        try:
            value = json.loads(
                data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole
            )
            _storable(value)
        except RecursionError as error:
            raise ParseError("it is nested too deeply") from error
        except ValueError as error:
            raise ParseError(str(error)) from error
        return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_FIELDS:
        raise ValueError(f"an object has more than {MOST_FIELDS} fields")
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _whole(text: str) -> int | float:
    """The number; infinity, which is refused by name later, where it has more digits than any field takes."""
    return int(text) if len(text) <= MOST_DIGITS else math.inf


def _storable(value: Any, name: str = "") -> None:
    """Raises ValueError for a text, Invalid for a number that no column holds: a double that overflows is one."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise ValueError("a text has a NUL or half of a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            _storable(key)
            _storable(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _storable(item, f"{name}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise Invalid("This number is out of range.", param=name[:MOST_NAME] or None)
