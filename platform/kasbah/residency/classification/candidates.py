"""Where in a text a number may begin and end.

Each expression here begins with the character that it looks for, which is quick to find, and is possessive or bounded,
so that no text makes it go back: time grows with the length alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kasbah.residency.classification.budget import Budget

FEWEST = 9  # digits of the shortest number that is looked for


def begin(one: str) -> str:
    """An expression for a character `one` with which a number may begin: not inside a word, a decimal, the path of a
    file, or an identifier in groups such as a UUID, and not after the + of a telephone number."""
    return rf"{one}(?<![0-9A-Za-z_+]{one})(?<![0-9]\.{one})(?<![0-9A-Za-z_][\-/]{one})"


DIGIT = re.compile(begin("[0-9]"))
GAP = r"(?: ?[.\-/] ?| )"  # between two groups of digits of one number
_RUN = re.compile(
    rf"(?=(?:[0-9] ?+[.\-/]?+ ?+){{{FEWEST}}})[0-9]{{1,19}}+(?![0-9])(?:{GAP}[0-9]{{1,19}}+(?![0-9])){{0,7}}+"
)
_GROUP = re.compile(r"[0-9]+")
END = r"(?![0-9A-Za-z_])(?![.\-/][0-9])(?!-[A-Za-z])"
_END = re.compile(END)


@dataclass(frozen=True, slots=True)
class Run:
    """Groups of digits with one separator between two. `ends[i]` is where the i-th group ends in the text."""

    start: int
    groups: tuple[str, ...]
    ends: tuple[int, ...]


def runs(text: str, budget: Budget) -> Iterator[Run]:
    """Every run of at most eight groups. One begins at each group, so they overlap."""
    for begun in DIGIT.finditer(text):
        budget.tick()
        found = _RUN.match(text, begun.start())
        if found is not None:
            groups = list(_GROUP.finditer(text, *found.span()))
            yield Run(found.start(), tuple(group[0] for group in groups), tuple(group.end() for group in groups))


def may_end(text: str, at: int) -> bool:
    """Whether a number may end at this place."""
    return _END.match(text, at) is not None
