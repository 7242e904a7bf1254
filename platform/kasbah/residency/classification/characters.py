"""What a reader sees in one character: a digit for a digit, a hyphen for a dash, nothing for what shows nothing.

Python's `unicodedata` has Unicode's names and categories (of version 14.0 in Python 3.11), but neither the property
Default_Ignorable_Code_Point nor later digits. Both are written down here, checked by hand against the `regex` package,
which a request's text would otherwise need for these two alone. The table of ignorable characters does not age: the
places that Unicode keeps for future ones are part of the property.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

# Default_Ignorable_Code_Point, first and last: DerivedCoreProperties.txt of Unicode 17.0.0.
DEFAULT_IGNORABLE = (
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
_FIRST = tuple(first for first, _ in DEFAULT_IGNORABLE)

# Zeros of decimal digits that are younger than Unicode 14.0 (17.0.0, extracted/DerivedNumericType.txt). Ten in a row
# each: the standard's own promise (chapter 4.6).
_YOUNG_ZEROS = (
    0x10D40, 0x116D0, 0x116DA, 0x11BF0, 0x11DE0, 0x11F50, 0x16130, 0x16D70, 0x1CCF0, 0x1E4F0, 0x1E5F1,
)  # fmt: skip
_YOUNG_DIGITS = {zero + value: str(value) for zero in _YOUNG_ZEROS for value in range(10)}

# What is read as a dash beside category Pd: PropList.txt, Dash, and the bullet that looks like a hyphen.
_DASHES = frozenset("\u2043\u2053\u207b\u208b\u2212\u02d7\u2796")
# Two signs that stand for whole sentences and would make a text many times as long.
_SENTENCES = frozenset("\ufdfa\ufdfb")
_VOICED = frozenset("\uff9e\uff9f")  # half-width marks of kana, which NFKC joins to the kana before them
_BLANK = "\u2800"  # a Braille cell without dots
_LINE_ENDS = frozenset("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")


def is_ignorable(char: str) -> bool:
    """Whether Unicode has it shown as nothing (Default_Ignorable_Code_Point)."""
    at = bisect_right(_FIRST, ord(char)) - 1
    return at >= 0 and ord(char) <= DEFAULT_IGNORABLE[at][1]


def digit_of(char: str) -> str | None:
    """The ASCII digit of the same value, or None: decimal digits of all scripts, circled, raised and others of
    Numeric_Type Digit, and other numbers of one digit, such as Roman and Suzhou numerals, that are not letters."""
    young = _YOUNG_DIGITS.get(ord(char))
    if young is not None:
        return young
    value: float | None = unicodedata.digit(char, None)
    if value is None and unicodedata.category(char) in {"No", "Nl"}:
        value = unicodedata.numeric(char, None)
    return str(int(value)) if value is not None and value in range(10) else None


def plain(char: str) -> str:
    """What is looked at in place of a character; "" where nothing is seen of it."""
    if char in _VOICED:
        return char
    for seen in (_space_of(char), "" if _is_unseen(char) else None, digit_of(char), _dash_of(char)):
        if seen is not None:
            return seen
    simple = unicodedata.normalize("NFKC", char)
    return simple if simple == char else "".join(map(plain, simple))


def is_mark(char: str) -> bool:
    """Whether it is drawn onto the character before it. Some are vowels, so only those between digits are left out."""
    return unicodedata.category(char)[0] == "M"


def _is_unseen(char: str) -> bool:
    if char in _SENTENCES or unicodedata.combining(char) or is_ignorable(char):
        return True
    return unicodedata.category(char) in {"Cf", "Cc", "Me"}


def _space_of(char: str) -> str | None:
    if char in _LINE_ENDS:
        return "\n"
    return " " if char.isspace() or char == _BLANK else None


def _dash_of(char: str) -> str | None:
    return "-" if char in _DASHES or unicodedata.category(char) == "Pd" else None
