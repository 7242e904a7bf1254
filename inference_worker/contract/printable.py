"""Which characters a name or a text may hold, and how what holds others is printed.

    first_unprintable("ten\\x1bant")     # 3: the index of the first character that is refused
    escaped("ten\\x1bant")               # 'ten\\\\x1bant': what people see instead

Refused, because they change how the text around them is shown, or are not shown at all: controls (C0, DEL, C1), line
and paragraph separators, everything of Unicode's category Cf (bidirectional marks, embeddings, overrides and isolates,
soft hyphen, byte order mark, tags), private use, halves of surrogate pairs, noncharacters, and the fillers in OTHERS.

Taken although they are Cf: the Arabic and other signs that are drawn (PREPENDED), and the two joiners where a script
needs them (RFC 5892, appendix A.1 and A.2, made simpler): ZERO WIDTH NON-JOINER between two letters that are not ASCII,
as Persian and Kurdish write it, ZERO WIDTH JOINER after such a letter, a mark or a picture, as in Indic scripts, in
Sinhala and in joined pictures. Variation selectors and the ideographic space pass. Only the standard library.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator

ZWNJ, ZWJ = "\u200c", "\u200d"
# Drawn, though format characters: Unicode's property Prepended_Concatenation_Mark.
PREPENDED = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Default ignorable and no format characters: combining grapheme joiner, Hangul fillers, Khmer inherent vowels.
OTHERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
REFUSED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
LINES = frozenset("\t\n")  # of a text of several lines; CR only before LF


def first_unprintable(text: str, *, lines: bool = False) -> int | None:
    """Index of the first character that is refused, or None. `lines`: tabs and line ends are taken."""
    return next(_unprintable(text, lines), None)


def named(character: str) -> str:
    """How a message calls a character: U+202E."""
    return f"U+{ord(character):04X}"


def escaped(text: str, *, lines: bool = False) -> str:
    r"""The text with each refused character as \x1b, \u202e or \U000e0041. `lines`: tabs and line ends stay."""
    return _replaced(text, lines, lambda character: character.encode("unicode_escape", "surrogatepass").decode("ascii"))


def escaped_json(document: str) -> str:
    r"""A JSON document with each refused character as \u202e: the same document, but safe to be printed."""
    return _replaced(document, True, _json_escape)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _replaced(text: str, lines: bool, replacement: Callable[[str], str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    parts, begin = [], 0
    for at in _unprintable(text, lines):
        parts += [text[begin:at], replacement(text[at])]
        begin = at + 1
    return "".join([*parts, text[begin:]])


def _unprintable(text: str, lines: bool) -> Iterator[int]:
    if text.isascii() and text.isprintable():
        return
    for at, character in enumerate(text):
        if character.isascii() and character.isprintable():
            continue
        if lines and (character in LINES or text[at : at + 2] == "\r\n"):
            continue
        if character in (ZWNJ, ZWJ):
            if not _joins(text, at):
                yield at
        elif character in OTHERS or _is_refused(character):
            yield at


def _is_refused(character: str) -> bool:
    if character in PREPENDED:
        return False
    point = ord(character)
    noncharacter = point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    return noncharacter or unicodedata.category(character) in REFUSED


def _joins(text: str, at: int) -> bool:
    """Whether a joiner stands where a script needs it."""
    before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    kinds = "LM" if text[at] == ZWNJ else "LMS"
    drawn = bool(before) and not before.isascii() and unicodedata.category(before)[0] in kinds
    # A sign of Indic scripts may end a word with a joiner; nothing else does.
    if not after or after.isspace():
        return drawn and text[at] == ZWJ and unicodedata.category(before) == "Mn"
    return drawn and not after.isascii() and unicodedata.category(after)[0] in kinds


class LineFormatter(logging.Formatter):
    """Formats a log record so that nothing in it can begin a line of its own or steer a terminal.

    Further lines, such as those of a traceback, are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines."""
        return escaped(super().format(record), lines=True).replace("\r\n", "\n").replace("\n", "\n    ")
