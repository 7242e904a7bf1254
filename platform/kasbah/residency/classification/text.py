"""From what is sent to a model to the text that is looked through.

A chat template writes what it is given as text: strings, keys, and numbers (through `tojson`). All three are read here,
in the order of the document. Out of scope is what an engine does not undo either: percent encoding, HTML entities,
base64, letters that merely look like digits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec

from kasbah.residency.classification.budget import Budget, TooMuch
from kasbah.residency.classification.characters import is_mark, plain

LONGEST = 1_000_000  # characters: several times the context of a long model
BORDER = "\n\f\n"  # between two texts: no number goes on beyond a form feed, which no text itself keeps
JOINT = "\x1f"  # between two parts of one message, which templates join with a line's end or with nothing
MOST_VALUES = 100_000  # of a JSON document
MOST_BRACKETS = 300_000  # in its bytes: parsing a million empty lists takes half a second
MOST_CHARACTERS = 20_000  # different ones beyond ASCII; Chinese, Japanese and Korean together use fewer
LONGEST_WORD = 40  # characters of one in a list that may be a part of a number: an IBAN has 34
FEWEST, MOST_DIGITS = 9, 25  # of a number with an exponent that is written out

_LONG_VOWEL = re.compile("\u30fc(?<=[0-9].)(?=[0-9])")  # of Japanese, which is typed for a dash between digits
_ESCAPED = re.compile(r"(?<!\\)\\++u([0-9a-fA-F]{4})")
_ESCAPED_CONTROL = re.compile(r"(?<!\\)\\++[bfnrt]")
_ESCAPED_SIGN = re.compile(r"(?<!\\)\\++(?=[/\"])")
_GAPS = {"b": " ", "f": " ", "n": "\n", "r": "\n", "t": " "}
_CONTROLS = re.compile(r"[\x00-\x09\x0b\x0d-\x1e\x7f]")
_ASCII = {code: plain(chr(code)) for code in (*range(0x20), 0x7F) if chr(code) not in ("\f", JOINT)}
_SURROGATES = re.compile("[\ud800-\udfff]")
_RESERVED = str.maketrans({"\f": "\n", JOINT: ""})
_SPACES, _LINES = re.compile(" {2,}+"), re.compile(r" ?\n[ \n]++")
# A number that is written with an exponent, or with a fraction of zero.
_EXPONENT = re.compile(r"(?<![0-9.])([0-9]{1,19}+)(?:\.([0-9]{1,25}+))?[eE]\+?([0-9]{1,2}+)(?![0-9A-Za-z_.])")
_ZERO_FRACTION = re.compile(r"\.(?<=[0-9]{9}\.)0++(?![0-9A-Za-z_])")
# 0, 0, 1 to 9; then the forms that amounts of money are written in: traditional, simplified, Japanese.
_IDEOGRAPHS = (
    "\u3007\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"
    "\u58f9\u8cb3\u53c3\u8086\u4f0d\u9678\u67d2\u634c\u7396"
    "\u8d30\u53c1\u9646\u58f1\u5f10\u53c2"
)
_IDEOGRAPHIC = re.compile(f"[{_IDEOGRAPHS}]{{2,}}+")
_VALUES = str.maketrans(_IDEOGRAPHS, "00123456789123456789236123")
_PART, _WORD = "part", "word"


def strings(body: bytes) -> Iterator[str]:
    """Every text in a JSON document, keys and numbers included: whatever reaches the engine is seen, in whatever field
    it stands. The parts of one message come as one text, with a JOINT between two.

    `body` is valid JSON that the gateway encoded itself. Raises TooMuch.
    """
    if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
        raise TooMuch
    waiting, left = [msgspec.json.decode(body)], MOST_VALUES
    while waiting:
        value = waiting.pop()
        left -= 1 + (len(value) if isinstance(value, (list, dict)) else 0)
        if left < 0:
            raise TooMuch
        if isinstance(value, str):
            yield value.translate(_RESERVED) if "\f" in value or JOINT in value else value
        elif isinstance(value, _Joined):
            yield JOINT.join(text.translate(_RESERVED) for text in value.texts)
        elif isinstance(value, list):
            waiting.extend(reversed(list(_neighbours_joined(value))))
        elif isinstance(value, dict):
            for key in value:
                yield key.translate(_RESERVED)
            waiting.extend(reversed(value.values()))
        elif _is_number(value):
            yield _digits(value)


class _Joined:
    """Texts that a template writes one behind the other."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts


def _neighbours_joined(values: list[Any]) -> Iterator[Any]:
    """The same values, where parts of a message that stand beside each other are one text, and so are numbers and
    single words: a card's number by its groups, in a list."""
    for kind, group in groupby(values, _kind):
        neighbours = list(group)
        if not kind or len(neighbours) == 1:
            yield from neighbours
        elif kind == _WORD:
            yield ", ".join(value if isinstance(value, str) else _digits(value) for value in neighbours)
        else:
            yield _Joined([value[_said_in(value)] for value in neighbours])
            for value in neighbours:
                yield {key: other for key, other in value.items() if key != _said_in(value)}


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return _PART if _said_in(value) else ""
    return _WORD if _is_number(value) or (isinstance(value, str) and _is_word(value)) else ""


def _is_word(text: str) -> bool:
    return len(text) <= LONGEST_WORD and len(text.split()) == 1


def _said_in(part: dict[str, Any]) -> str:
    """The field that is the text of a message's part; templates read text and refusals alike."""
    return next((name for name in ("text", "refusal") if isinstance(part.get(name), str)), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _digits(value: float) -> str:
    """A JSON number without sign, exponent and fraction of zero, as `tojson` may write it or not."""
    size = abs(value)
    return str(int(size)) if isinstance(size, int) or (size < 10.0**MOST_DIGITS and size == int(size)) else repr(size)


def normal(text: str) -> str:
    """The text with one way to write each letter, digit, dash and space (NFKC, ASCII digits, single spaces), without
    what is invisible, and with JSON's \\u escapes resolved, however often they were escaped themselves: a tool's
    arguments are JSON inside JSON. At most LONGEST characters and one. Raises TooMuch."""
    text = text[: LONGEST + 1]
    if "\\u" in text:
        text = _ESCAPED.sub(_unescaped, text)
        if _SURROGATES.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if not text.isascii():
        text = _simple(text)
    elif _CONTROLS.search(text):
        text = text.translate(_ASCII)
    if "  " in text:
        text = _SPACES.sub(" ", text)
    return _LINES.sub("\n", text)


def readings(text: str, budget: Budget) -> tuple[str, ...]:
    """A normalised text as it is looked through: JSON's other escapes resolved, numbers written out, and where parts of
    a message meet once with a line's end and once with nothing between them. Raises TooMuch."""
    if "\\" in text:
        text = _ESCAPED_SIGN.sub("", _ESCAPED_CONTROL.sub(lambda found: _GAPS[found[0][-1]], text))
    text = _EXPONENT.sub(lambda found: _written_out(found, budget), text)
    text = _ZERO_FRACTION.sub("", text)
    if not text.isascii():
        text = _IDEOGRAPHIC.sub(lambda found: found[0].translate(_VALUES), text)
    return (text.replace(JOINT, "\n"), text.replace(JOINT, "")) if JOINT in text else (text,)


def folded(text: str) -> str:
    """Small letters without accents, to compare words; for short texts."""
    return "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)).translate(_RESERVED)


def _simple(text: str) -> str:
    """The same, each character by itself first: normalising sorts runs of marks in time that grows with the square of
    a run's length, so marks go before it."""
    used = set(text)
    if len(used) > MOST_CHARACTERS:
        raise TooMuch
    others = [char for char in used if char > "\x7f"]
    table = _ASCII | {ord(char): simple for char in others if (simple := plain(char)) != char}
    text = unicodedata.normalize("NFKC", text.translate(table)[: LONGEST + 1])
    marks = "".join(char for char in others if ord(char) not in table and is_mark(char))
    if marks:
        text = re.sub(f"(?<=[0-9])[{re.escape(marks)}]++", "", text)
    return _LONG_VOWEL.sub("-", text)


def _written_out(found: re.Match[str], budget: Budget) -> str:
    """The digits of 4.111e15, where they may be those of an identifier."""
    budget.tick()
    whole, fraction, exponent = found[1], found[2] or "", int(found[3])
    digits = (whole + fraction).ljust(len(whole) + exponent, "0")[: len(whole) + exponent]
    return digits if FEWEST <= len(digits) <= MOST_DIGITS else found[0]
