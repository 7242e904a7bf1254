"""JSON and base64, each read in the one way in which it may be written."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from kasbah.audit.export.verifier.failure import Failed

LARGEST_INTEGER = 2**53 - 1
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half a character (UTF-16), which no text has


def _integer(text: str) -> int:
    found = int(text) if len(text) < 20 else LARGEST_INTEGER + 1
    if abs(found) > LARGEST_INTEGER:
        raise ValueError(f"{text[:20]} is beyond 2^53-1")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not an integer")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


STRICT = json.JSONDecoder(object_pairs_hook=_no_twins, parse_int=_integer, parse_float=_refuse, parse_constant=_refuse)


def read_json(data: bytes, what: str) -> Any:
    """What a document says. Raises Failed."""
    try:
        text = data.decode()
        found = STRICT.decode(text)
        if HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Failed("document_malformed", f"{what}: not JSON that every reader reads alike: {error}") from error
    return found


def read_object(data: bytes, what: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """An object with at least these fields, each of its type. Raises Failed."""
    found = read_json(data, what)
    if not isinstance(found, dict):
        raise Failed("document_malformed", f"{what}: it is not an object")
    for name, kind in fields.items():
        if type(found.get(name)) is not kind:  # bool is an int elsewhere
            raise Failed("document_malformed", f"{what}: {name} is not there, or not of type {kind.__name__}")
    return found


def read_base64(text: Any, what: str, *, size: int | None = None) -> bytes:
    """Bytes, so many where `size` says how many. Raises Failed."""
    try:
        found = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise Failed("document_malformed", f"{what}: not base64") from error
    if size is not None and len(found) != size:
        raise Failed("document_malformed", f"{what}: not {size} bytes")
    return found
