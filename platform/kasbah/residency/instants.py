"""Times that stand for all times: policies with windows change what they decide only at a few moments of a week."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise

from kasbah.residency.windows import NEVER, Clock, Span, zone

# Clocks are looked at within these; before, no request was made, and beyond, no zone has rules of its own year.
FIRST = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
DAY = 24 * 3600
WEEK = 7 * DAY
THURSDAY = 3 * DAY  # the epoch began on one; weeks begin on Monday
MOST_ZONES = 16
MOST_LOOKS = 1_000_000  # at windows, each at each time: a second or two


class TooLarge(Exception):
    """There is more to look at than may be looked at."""


def instants(clocks: Sequence[Clock], since: int = 0) -> Iterator[int]:
    """At least one time for each set of rules that these clocks can ever let apply together, from `since` on.

    While no clock of any zone is put forward or back and no date is passed, the windows repeat every week. So one
    week is enough for each way in which clocks can stand, and within it the moments at which a window begins or ends.
    Raises TooLarge.
    """
    spans = {span for clock in clocks for span in clock.spans}
    by_zone: defaultdict[str, list[tuple[int, Span]]] = defaultdict(list)
    for number, span in enumerate(spans):
        by_zone[span.zone].append((1 << number, span))
    if len(by_zone) > MOST_ZONES:
        raise TooLarge
    seen = set()
    for count, at in enumerate(_moments(spans, max(since, FIRST))):
        if count * len(spans) > MOST_LOOKS:
            raise TooLarge
        if (now := _open(by_zone, at)) not in seen:
            seen.add(now)
            yield at


def _open(by_zone: dict[str, list[tuple[int, Span]]], at: int) -> int:
    """The spans that hold, as bits."""
    found = 0
    for name, spans in by_zone.items():
        local = datetime.fromtimestamp(at, zone(name))
        weekday, minute = local.weekday(), local.hour * 60 + local.minute
        for bit, span in spans:
            if span.holds(at, weekday, minute):
                found |= bit
    return found


def _moments(spans: set[Span], first: int) -> Iterator[int]:
    """From `first` on, the beginnings and ends of windows, in as few weeks as it takes."""
    zones = {span.zone for span in spans}
    cuts = {first, NEVER}
    cuts.update(bound for span in spans for bound in (span.since, span.until) if first < bound < NEVER)
    cuts.update(moment for name in zones for moment in changes(name) if moment > first)
    known: set[tuple[object, ...]] = set()
    for begin, end in pairwise(sorted(cuts)):
        open_now = [(span, offset(span.zone, begin)) for span in spans if span.since <= begin < span.until]
        state = (frozenset(open_now), frozenset((name, offset(name, begin)) for name in zones))
        if end - begin >= WEEK:
            if state in known:
                continue
            known.add(state)
        yield from _turns(open_now, begin, min(end, begin + WEEK))


def _turns(spans: Iterable[tuple[Span, int]], begin: int, end: int) -> Iterator[int]:
    """The moments in between at which one of the windows begins or ends; and `begin`."""
    found = {begin}
    for span, east in spans:
        for day in range(7):
            for minute in (span.begins, span.ends):
                moment = begin + (day * DAY + minute * 60 - THURSDAY - east - begin) % WEEK
                if moment < end:
                    found.add(moment)
    yield from sorted(found)


def offset(name: str, at: int) -> int:
    """By how many seconds the clocks of a zone are ahead of UTC."""
    ahead = datetime.fromtimestamp(at, zone(name)).utcoffset()
    return int(ahead.total_seconds()) if ahead is not None else 0


@cache
def changes(name: str) -> tuple[int, ...]:
    """The moments between FIRST and LAST at which the clocks of a zone are put forward or back."""
    if name == "UTC":
        return ()
    found = []
    for begin in range(FIRST, LAST, DAY):
        low, high = begin, begin + DAY
        before = offset(name, low)
        if offset(name, high) == before:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(name, middle) == before else (low, middle)
        found.append(high)
    return tuple(found)
