"""Addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import phonenumbers

from kasbah.residency.classification.budget import Budget
from kasbah.residency.classification.candidates import begin, may_end

REGIONS = ("FR", "MA", "JP", "AE")  # whose numbers are known without their country's code

# An address is a character of a local part, "@", and a host (RFC 1035: labels of at most 63 characters) whose last
# label begins like a top-level domain; letters of any script (RFC 6531).
_EMAIL = re.compile(r"@(?<=[\w.!#$%&'*+/=?^`{|}~\"-]@)(?:[\w-]{1,63}+\.){1,8}[^\W\d_]{2}")

_INTERNATIONAL = (re.compile(r"\+(?<![0-9A-Za-z_+]\+) ?(?=[1-9(])"), re.compile(rf"{begin('0')}0 ?(?=[1-9(])"))
_NATIONAL = re.compile(rf"{begin('0')}(?=[1-9])")
_DIGITS = re.compile(r"\(?[0-9](?:[ .\-/()]{0,2}+[0-9]){6,16}+")
_TRUNK = re.compile(r"\(0\)")  # the 0 that +33 (0)6 says to leave out
_GAPS = re.compile(r"(?<=[0-9])[^0-9]+(?=[0-9])")


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Where addresses stand."""
    for found in _EMAIL.finditer(text):
        yield found.span()


def phones(text: str, budget: Budget) -> Iterator[tuple[int, int]]:
    """Where telephone numbers stand: of any country with +, or 00, and its code; of REGIONS as they are dialled there.

    A look into the numbering plans takes some 30 microseconds.
    """
    for beginning in _INTERNATIONAL:
        after = 0
        for found in beginning.finditer(text):
            budget.tick()
            if found.start() >= after and (end := _international(text, found.end(), budget)):
                after = end
                yield found.start(), end
    after = 0
    for found in _NATIONAL.finditer(text):
        budget.tick()
        if found.start() >= after and (end := _national(text, found.start(), budget)):
            after = end
            yield found.start(), end


def _prefixes(text: str, at: int) -> Iterator[tuple[str, int]]:
    """What may be the whole number, longest first, and where it ends."""
    found = _DIGITS.match(text, at)
    if found is None:
        return
    ends = [gap.start() for gap in _GAPS.finditer(text, at, found.end())]
    for end in (found.end(), *reversed(ends)):
        if may_end(text, end):
            yield text[at:end], end


def _international(text: str, at: int, budget: Budget) -> int:
    for written, end in _prefixes(text, at):
        number = "".join(char for char in _TRUNK.sub("", written) if char.isdigit())
        if 8 <= len(number) <= 15:  # ITU-T E.164
            budget.plan()
            if _valid("+" + number, None):
                return end
    return 0


def _national(text: str, at: int, budget: Budget) -> int:
    for written, end in _prefixes(text, at):
        number = "".join(char for char in written if char.isdigit())
        # Between the groups of one number stands always the same; 01-02-2024 10 is a date and an hour.
        gaps = {gap for gap in _GAPS.findall(written) if ")" not in gap}
        if len(gaps) > 1 or "/" in gaps:
            continue
        for region in _regions(number):
            budget.plan()
            if _valid(number, region):
                return end
    return 0


def _regions(number: str) -> Iterator[str]:
    """Whose numbers have this many digits, so that few plans are looked into."""
    for region in REGIONS:
        if len(number) in {"FR": (10,), "MA": (10,), "JP": (10, 11), "AE": (9, 10)}[region]:
            yield region


def _valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
