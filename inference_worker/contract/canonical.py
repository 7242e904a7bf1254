"""Canonical JSON: RFC 8785 restricted to what two programs can never read differently.

Keys are ASCII, integers stay within 2^53-1, floats and duplicate keys are refused, output is UTF-8 with keys sorted.
What is signed or hashed is always the exact bytes that were produced here, never a re-serialisation.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

MAX_INTEGER = 2**53 - 1
_sorted = msgspec.json.Encoder(order="sorted")  # canonical for all that `_fits`: the tests compare it with `json`


class NotCanonical(ValueError):
    """The value or the bytes fall outside the restricted form; the message says where."""


def dumps(value: Any) -> bytes:
    """Serialise `value` (dict, list, str, int, bool, None) to canonical bytes. Raises NotCanonical."""
    if _fits(value):
        return _sorted.encode(value)
    _check(value, "$")  # passes what is of a subclass, such as an enumeration's string
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def loads(data: bytes) -> Any:
    """Parse canonical bytes; anything that `dumps` would not have written is refused with NotCanonical."""
    try:  # what is canonical is recognised in a tenth of the time; what is not goes on below, where it is told why
        value = msgspec.json.decode(data)
        if _fits(value) and _sorted.encode(value) == data:
            return value
    except (ValueError, RecursionError):
        pass
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates, parse_float=_no_float, parse_constant=_no_float)
        same = dumps(value) == data
    except NotCanonical:
        raise
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits and half a character too
        raise NotCanonical(f"not JSON: {error}") from error
    if not same:
        raise NotCanonical("the bytes are JSON but not in canonical form")
    return value


def _fits(value: Any) -> bool:
    """Whether `_check` lets it pass, in a third of the time: it need not say where."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _fits(item) for key, item in value.items())
    return kind in (list, tuple) and all(_fits(item) for item in value)


def _check(value: Any, where: str) -> None:
    """Say what does not fit. Raises NotCanonical."""
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise NotCanonical(f"{where}: integer beyond 2^53-1")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise NotCanonical(f"{where}: key {key!r} is not an ASCII string")
            _check(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
    else:
        raise NotCanonical(f"{where}: {type(value).__name__} has no canonical form")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotCanonical("duplicate key in an object")
    return result


def _no_float(text: str) -> Any:
    raise NotCanonical(f"{text}: floats have no canonical form")
