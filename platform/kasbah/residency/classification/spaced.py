"""Cards' numbers whose groups are kept apart by other than one space, dot, hyphen or slash: commas, line ends, bars,
several signs.

Such signs also stand between numbers of a list. So these groups must be of the sizes that cards are written in, or
single digits or pairs, and stand by themselves: a column of numbers of four digits is no card's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kasbah.residency.classification.budget import Budget
from kasbah.residency.classification.candidates import begin, may_end
from kasbah.residency.classification.formats import card

LONGEST_GAP = 6  # characters
_GAP = rf"(?:(?!\f)[\W_]){{1,{LONGEST_GAP}}}+"
_NOT_DIGIT = re.compile(r"[^0-9]+")


def _group(size: int) -> str:
    return rf"[0-9]{{{size}}}(?![0-9])"


def _stretch(size: int, fewest: int, tail: str = "") -> re.Pattern[str]:
    """`fewest` groups of a size or more, as many as there are."""
    first = rf"{begin('[0-9]')}{rf'[0-9]{{{size - 1}}}' if size > 1 else ''}(?![0-9])"
    return re.compile(rf"{first}(?:{_GAP}{_group(size)}){{{fewest - 1},}}+{tail}")


_STRETCHES = (
    _stretch(4, 4, rf"(?:{_GAP}{_group(3)})?+"),
    re.compile(rf"{begin('[0-9]')}[0-9]{{3}}{_GAP}{_group(6)}{_GAP}(?:{_group(5)}|{_group(4)})"),  # 4 6 5 and 4 6 4
    _stretch(2, 7),
    _stretch(1, 13),
)


def spaced_cards(text: str, budget: Budget) -> Iterator[tuple[int, int]]:
    """Where they stand."""
    for stretch in _STRETCHES:
        for found in stretch.finditer(text):
            budget.check()
            number = _NOT_DIGIT.sub("", found[0]) if len(found[0]) <= 19 * (LONGEST_GAP + 1) else ""
            code_behind = len(number) == 19 and card(number[:16])  # the three digits of a security code
            if code_behind or (card(number) and may_end(text, found.end())):
                yield found.span()
