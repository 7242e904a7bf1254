"""Looking through a text: which kinds of personal data stand in it, and how often. Never what they are.

The time is bounded for any text. What is beyond the bounds counts as found (UNREAD): a text that cannot be looked
through is treated as one that has something in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from kasbah.residency.classification.contacts import emails, phones
from kasbah.residency.classification.formats import CARD, NATIONAL
from kasbah.residency.classification.numbers import Span, ibans, lettered, numbers
from kasbah.residency.classification.text import normal, strings

EMAIL, PHONE, IBAN, UNREAD = "email", "phone", "iban", "unread"
LONGEST = 1_000_000  # characters: several times the context of a long model
MOST = 100  # of a kind that are counted
MOST_CHECKS = 20_000  # of numbers, 5 to 30 microseconds each
MOST_PLANS = 5_000  # looks into numbering plans, some 30 microseconds each

Search = Callable[[str], Iterator[Span]]


class TooMuch(Exception):
    """There is more to check than is checked."""


class Work:
    """Counts checks; raises TooMuch beyond the last."""

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self) -> None:
        """One check."""
        self._left -= 1
        if self._left < 0:
            raise TooMuch


def text_of(body: bytes) -> tuple[str, bool]:
    """The text in what is sent to a model (JSON), normalised, its first LONGEST characters; and whether that is all."""
    parts, left = [], LONGEST
    for text in strings(body):
        parts.append(text[: max(left, 0)])
        left -= len(text) + 1
    joined = normal("\n".join(parts))  # a line's end keeps numbers of two texts apart; some characters become several
    return joined[:LONGEST], left >= -1 and len(joined) <= LONGEST


def look(text: str, detect: Iterable[str]) -> dict[str, int]:
    """How often each kind of `detect` stands in a normalised text, at most MOST each; what was not found is left out.

    Takes time that grows with the length of the text.
    """
    wanted = frozenset(detect)
    found: dict[str, int] = {}
    try:
        for kind, search in _searches(wanted):
            spans = list(islice(search(text), MOST))
            if spans and kind in wanted:
                found[kind] = found.get(kind, 0) + len(spans)
            text = _without(text, spans)
    except TooMuch:
        found[UNREAD] = 1
    return found


def _searches(wanted: frozenset[str]) -> Iterator[tuple[str, Search]]:
    """In this order, because what one finds is not looked at by the next. So a number that may be two things counts as
    one of those that are wanted; only IBANs, which are unmistakable and have parts that are not, are always taken out.
    """
    checks, plans = Work(MOST_CHECKS), Work(MOST_PLANS)
    if EMAIL in wanted:
        yield EMAIL, emails
    if wanted & {IBAN, CARD, NATIONAL, PHONE}:
        yield IBAN, lambda text: ibans(text, checks)
    if CARD in wanted:
        yield CARD, lambda text: numbers(text, CARD, checks)
    if NATIONAL in wanted:
        yield NATIONAL, lambda text: numbers(text, NATIONAL, checks)
        yield NATIONAL, lambda text: lettered(text, checks)
    if PHONE in wanted:
        yield PHONE, lambda text: phones(text, plans)


def _without(text: str, spans: list[Span]) -> str:
    if not spans:
        return text
    parts, at = [], 0
    for start, end in sorted(spans):
        parts.append(text[at:start])
        at = end
    return "\n".join((*parts, text[at:]))
