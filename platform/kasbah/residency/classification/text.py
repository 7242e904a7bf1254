"""From what is sent to a model to the text that is looked through."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

import msgspec

# Between digits also the sign of a long vowel in Japanese, which is typed for a dash.
_DASHES = re.compile("[\u2010-\u2015\u2212]+|(?<=[0-9])\u30fc(?=[0-9])")
_OTHER_DIGITS = re.compile(r"[^\D0-9]")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
# Fillers, and two Arabic signs that stand for whole sentences and would make the text many times as long.
_BESIDES = "\u115f\u1160\u3164\ufe0f\ufdfa\ufdfb"
# Beyond these code points Unicode has ideographs and nothing else.
_PLANES = (range(0x80, 0x20000), range(0xE0000, 0xE1000))


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
    text = unicodedata.normalize("NFKC", _invisible(max(text) > "\uffff").sub("", text))
    text = _OTHER_DIGITS.sub(lambda found: str(unicodedata.digit(found[0])), text)
    return _DASHES.sub("-", text)


def folded(text: str) -> str:
    """Small letters without accents, to compare words; for short texts."""
    return "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))


@cache
def _invisible(beyond: bool) -> re.Pattern[str]:
    """Marks, format characters and fillers: what shows nothing of its own between two digits. `beyond`: also those
    beyond the basic plane, which take longer to look for."""
    chars = (
        char
        for plane in _PLANES
        for char in map(chr, plane)
        if unicodedata.combining(char) or unicodedata.category(char) == "Cf" or char in _BESIDES
    )
    found = "".join(char for char in chars if beyond or char <= "\uffff")
    return re.compile(f"[{re.escape(found)}]+")
