"""Where numbers of known formats stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from stdnum import iban, numdb
from stdnum.iso7064 import mod_97_10

from kasbah.residency.classification.budget import Budget
from kasbah.residency.classification.candidates import DIGIT, END, GAP, Run, may_end, runs
from kasbah.residency.classification.formats import LETTERED, NUMBERS, Format
from kasbah.residency.classification.text import folded

NEAR = 60  # characters in which a word says what a number is

Span = tuple[int, int]  # begin and end in the text

_WRITTEN = "|".join(f"(?P<{item.name}>{item.pattern})" for item in LETTERED)
_LETTERED = re.compile(f"(?:{_WRITTEN}){END}", re.IGNORECASE)
_LETTERS_BEFORE = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9A-Za-z_][\-/])(?:[A-Z]{3} ?[A-Z]{3} ?|[A-Z]{1,2}[ -]?)\Z", re.IGNORECASE
)
_FIRST_DIGIT = re.compile(r"[0-9](?<![0-9].)")
_BY_NAME = {item.name: item for item in LETTERED}
_IBAN = re.compile(r"[0-9](?<=[A-Za-z]{2}[0-9])(?<![0-9A-Za-z_]...)(?<![0-9A-Za-z_][\-/]...)[0-9]")
_BBAN = re.compile(r"([0-9]+)!")  # lengths in a structure such as 5!n5!n11!c2!n
_GROUPS_AROUND = (re.compile(rf"[0-9]{GAP}\Z"), re.compile(rf"{GAP}[0-9]"))


def numbers(text: str, kind: str, budget: Budget) -> Iterator[Span]:
    """Numbers of a kind that are written in digits alone."""
    by_grouping, after = _by_grouping(kind), 0
    for run in runs(text, budget):
        if run.start >= after and (end := _end(text, run, by_grouping, budget)):
            after = end
            yield run.start, end


def _end(text: str, run: Run, by_grouping: Mapping[tuple[int, ...], tuple[Format, ...]], budget: Budget) -> int:
    """Where the number ends that begins with this run; 0: there is none."""
    budget.check()
    sizes = tuple(map(len, run.groups))
    for count in range(len(sizes), 0, -1):  # the longest first: a card's number is no shorter number and a rest
        formats, end = by_grouping.get(sizes[:count]), run.ends[count - 1]
        if formats and may_end(text, end):
            number = "".join(run.groups[:count])
            if any(_is_one(item, number, text, run.start, end) for item in formats):
                return end
    return 0


def _is_one(item: Format, number: str, text: str, start: int, end: int) -> bool:
    if not item.valid(number) or not _said(text, start, end, item.words):
        return False
    before, behind = _GROUPS_AROUND
    return not item.alone or not (before.search(text, max(0, start - 4), start) or behind.match(text, end))


def lettered(text: str, budget: Budget) -> Iterator[Span]:
    """Identifiers with letters."""
    for digit in _FIRST_DIGIT.finditer(text):
        budget.tick()
        at = digit.start()
        before = _LETTERS_BEFORE.search(text, max(0, at - 9), at)
        found = _LETTERED.match(text, before.start() if before else at)
        if found is None or not (before or DIGIT.match(text, at)):
            continue
        budget.check()
        item = _BY_NAME[found.lastgroup or ""]
        if item.valid(found[0].upper()) and _said(text, *found.span(), item.words):
            yield found.span()


def ibans(text: str, budget: Budget) -> Iterator[Span]:
    """IBANs (ISO 13616), written at one go or in groups."""
    lengths, after = _iban_lengths(), 0
    for found in _IBAN.finditer(text):
        budget.tick()
        start = found.start() - 2
        length = lengths.get(text[start : start + 2].upper())
        if length is None or start < after:
            continue
        budget.check()
        written = _take(text, start, length)
        end = start + len(written)
        if written and may_end(text, end) and _is_iban(written):
            after = end
            yield start, end


def _is_iban(written: str) -> bool:
    number = "".join(filter(str.isalnum, written)).upper()
    if number.startswith("MA"):
        return number[2:].isdigit() and bool(mod_97_10.is_valid(number[4:] + number[:4]))
    return bool(iban.is_valid(number))


def _take(text: str, start: int, length: int) -> str:
    """The first `length` letters and digits, with what stands between groups of four, or between groups of any sizes,
    as banks write their own numbers, where most are digits; "" when it is not that."""
    plain = text[start : start + length]
    if plain.isalnum():
        return plain if len(plain) == length else ""
    found = _grouped_iban(length).match(text, start)
    if found is None and (found := _any_groups(length).match(text, start)):
        digits = sum(map(str.isdigit, found[0]))
        found = found if 2 * digits > length else None
    return found[0] if found else ""


@cache
def _any_groups(length: int) -> re.Pattern[str]:
    """Groups of any sizes with a sign or two between them."""
    return re.compile(rf"[^\W_](?:(?:(?!\f)[\W_]){{0,2}}+[^\W_]){{{length - 1}}}")


@cache
def _grouped_iban(length: int) -> re.Pattern[str]:
    """Groups of four, the last one shorter, with signs or line ends between two."""
    gap, rest = r"(?:(?!\f)[\W_]){1,3}+", length % 4
    last = rf"{gap}[^\W_]{{{rest}}}" if rest else ""
    return re.compile(rf"[^\W_]{{4}}(?:{gap}[^\W_]{{4}}){{{length // 4 - 1}}}{last}")


def _said(text: str, start: int, end: int, words: tuple[str, ...]) -> bool:
    """Whether one of the words stands near, as a word of its own; none are needed where none are given."""
    if not words:
        return True
    near = folded(text[max(0, start - NEAR) : start] + " " + text[end : end + NEAR])
    return _any(words).search(near) is not None


@cache
def _any(words: tuple[str, ...]) -> re.Pattern[str]:
    # Japanese has no spaces between words, and Arabic writes its article and prepositions with the word.
    return re.compile(f"(?<![a-z0-9])(?:{'|'.join(map(re.escape, words))})(?![a-z0-9])")


@cache
def _by_grouping(kind: str) -> Mapping[tuple[int, ...], tuple[Format, ...]]:
    found: dict[tuple[int, ...], tuple[Format, ...]] = {}
    for item in NUMBERS:
        for grouping in item.groupings if item.kind == kind else ():
            found[grouping] = (*found.get(grouping, ()), item)
    return found


@cache
def _iban_lengths() -> Mapping[str, int]:
    """Characters of an IBAN by country, from the registry that python-stdnum brings. SWIFT's registry, where that comes
    from, does not list Morocco, whose banks write their 24 digits as IBANs all the same."""
    registry, letters = numdb.get("iban"), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    found = {"MA": 28}
    for country in (one + other for one in letters for other in letters):
        structure = registry.info(country)[0][1].get("bban")
        if structure:
            found[country] = 4 + sum(map(int, _BBAN.findall(structure)))
    return found
