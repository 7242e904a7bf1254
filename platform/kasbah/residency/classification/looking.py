"""Looking through a text: which kinds of personal data stand in it, and how often. Never what they are.

The time is bounded for any text. What is beyond the bounds counts as found (UNREAD): a text that cannot be looked
through is treated as one that has something in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from kasbah.residency.classification.budget import Budget, TooMuch
from kasbah.residency.classification.contacts import emails, phones
from kasbah.residency.classification.formats import CARD, NATIONAL
from kasbah.residency.classification.numbers import Span, ibans, lettered, numbers
from kasbah.residency.classification.spaced import spaced_cards
from kasbah.residency.classification.text import BORDER, LONGEST, normal, readings, strings

EMAIL, PHONE, IBAN, UNREAD = "email", "phone", "iban", "unread"
MOST = 100  # of a kind that are counted
MOST_CHECKS = 20_000  # of numbers, 5 to 30 microseconds each
MOST_PLANS = 5_000  # looks into numbering plans, some 30 microseconds each
SECONDS = 0.3  # of a processor; ordinary texts of LONGEST characters take half of it

Search = Callable[[str], Iterator[Span]]


def text_of(body: bytes) -> tuple[str, bool]:
    """The text in what is sent to a model (JSON), normalised, its first LONGEST characters; and whether that is all."""
    parts: list[str] = []
    left, whole = LONGEST, True
    try:
        for text in strings(body):
            parts.append(text[: max(left, 0)])
            left -= len(text)
            if left < 0:
                whole = False
                break
            left -= len(BORDER)
        joined = normal(BORDER.join(parts))  # some characters become several
    except TooMuch:
        return "", False
    return joined[:LONGEST], whole and len(joined) <= LONGEST


def look(text: str, detect: Iterable[str]) -> dict[str, int]:
    """How often each kind of `detect` stands in a normalised text, at most MOST each; what was not found is left out.

    Takes time that grows with the length of the text.
    """
    wanted, found = frozenset(detect), dict[str, int]()
    budget = Budget(MOST_CHECKS, MOST_PLANS, SECONDS)
    try:
        for reading in readings(text, budget):
            for kind, count in _count(reading, wanted, budget):
                found[kind] = max(count, found.get(kind, 0))
    except TooMuch:
        found[UNREAD] = 1
    return found


def _count(text: str, wanted: frozenset[str], budget: Budget) -> Iterator[tuple[str, int]]:
    """How often each wanted kind was found so far, after each search that found something."""
    found: Counter[str] = Counter()
    for kind, search in _searches(wanted, budget):
        spans = list(islice(search(text), MOST))
        if spans and kind in wanted:
            found[kind] += len(spans)
            yield kind, found[kind]
        text = _without(text, spans)


def _searches(wanted: frozenset[str], budget: Budget) -> Iterator[tuple[str, Search]]:
    """In this order, because what one finds is not looked at by the next. So a number that may be two things counts as
    one of those that are wanted; only IBANs, which are unmistakable and have parts that are not, are always taken out.
    """
    if EMAIL in wanted:
        yield EMAIL, emails
    if wanted & {IBAN, CARD, NATIONAL, PHONE}:
        yield IBAN, lambda text: ibans(text, budget)
    if CARD in wanted:
        yield CARD, lambda text: numbers(text, CARD, budget)
        yield CARD, lambda text: spaced_cards(text, budget)
    if NATIONAL in wanted:
        yield NATIONAL, lambda text: numbers(text, NATIONAL, budget)
        yield NATIONAL, lambda text: lettered(text, budget)
    if PHONE in wanted:
        yield PHONE, lambda text: phones(text, budget)


def _without(text: str, spans: list[Span]) -> str:
    if not spans:
        return text
    parts, at = [], 0
    for start, end in sorted(spans):
        parts.append(text[at:start])
        at = end
    return "\n".join((*parts, text[at:]))
