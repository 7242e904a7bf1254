"""From what is sent to a model to the text that is looked through."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import msgspec

_LONG_VOWEL = re.compile("\u30fc(?<=[0-9].)(?=[0-9])")  # of Japanese, which is typed for a dash between digits
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58"
# Fillers, and two Arabic signs that stand for whole sentences and would make the text many times as long.
_DROPPED = "\u115f\u1160\u3164\ufe0f\ufdfa\ufdfb"


def strings(body: bytes) -> Iterator[str]:
    """Every text in a JSON document, keys included: whatever reaches the engine is seen, in whatever field it stands.

    `body` is valid JSON that the gateway encoded itself.
    """
    waiting = [msgspec.json.decode(body)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            yield from value
            waiting.extend(value.values())


def normal(text: str) -> str:
    """The text with one way to write each letter, digit, dash and space (NFKC, ASCII digits), without what is
    invisible, and with JSON's \\u escapes resolved: a tool's arguments are JSON inside JSON."""
    if "\\u" in text:
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    if text.isascii():
        return text
    # Marks go before normalising, which sorts runs of them in time that grows with the square of a run's length.
    written = {ord(char): plain for char in set(text) if char > "\x7f" and (plain := _plain(char)) != char}
    text = unicodedata.normalize("NFKC", text.translate(written) if written else text)
    return _LONG_VOWEL.sub("-", text)


def folded(text: str) -> str:
    """Small letters without accents, to compare words; for short texts."""
    return "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))


def _plain(char: str) -> str:
    """A digit for a digit, a hyphen for a dash; nothing for what shows nothing of its own between two digits."""
    if char in _DROPPED or unicodedata.combining(char) or unicodedata.category(char) == "Cf":
        return ""
    if char in _DASHES:
        return "-"
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)
