"""When a rule applies: days and hours of a place's clocks, and dates before and after which it does not.

A time is a number of seconds since the epoch, UTC. Zones come from the pinned `tzdata`, never from the machine, so
that every process decides alike.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60  # minutes
NEVER = 253402214400  # 9999-12-31: no time beyond it can be written on a calendar
CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", re.ASCII)


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time at which a rule applies, as a policy writes it; all that is given must hold."""

    days: tuple[str, ...] = ()
    begins: str = msgspec.field(default="", name="from")
    ends: str = msgspec.field(default="", name="to")
    zone: str = ""
    not_before: str = ""
    not_after: str = ""


class WindowInvalid(ValueError):
    """A window that no clock can follow; `field` is the one that is wrong, "" the window."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Span(NamedTuple):
    """A window ready to be asked. One whose end is not after its begin goes on until that hour of the next day."""

    zone: str
    days: frozenset[int]  # Monday is 0; days on which it begins
    begins: int  # minutes since midnight
    ends: int
    since: int  # seconds since the epoch, the first inside
    until: int  # the first outside

    def holds(self, at: int, weekday: int, minute: int) -> bool:
        """Whether it holds at `at`, which clocks in its zone show as this minute of this day."""
        if not self.since <= at < self.until:
            return False
        if self.begins < self.ends:
            return weekday in self.days and self.begins <= minute < self.ends
        if minute >= self.begins:
            return weekday in self.days
        return minute < self.ends and (weekday - 1) % 7 in self.days


def span(window: Window) -> Span:
    """The window in numbers. Raises WindowInvalid."""
    if not (window.days or window.begins or window.ends or window.not_before or window.not_after):
        raise WindowInvalid("", "it names no time, so it would always hold; leave it out")
    begins, ends = _minutes("from", window.begins, 0), _minutes("to", window.ends, DAY)
    if begins == ends:
        raise WindowInvalid("to", "it ends when it begins; leave both out for whole days")
    since, until = _seconds("not_before", window.not_before, 0), _seconds("not_after", window.not_after, NEVER - 1) + 1
    if since >= until:
        raise WindowInvalid("not_after", "it is over before it begins")
    if unknown := [day for day in window.days if day not in DAYS]:
        raise WindowInvalid("days", f"{unknown[0]} is not one of {', '.join(DAYS)}")
    if window.zone and window.zone not in zones():
        raise WindowInvalid("zone", f"{window.zone} is not a time zone; write it like Europe/Paris")
    days = frozenset(map(DAYS.index, window.days)) if window.days else frozenset(range(7))
    return Span(window.zone or "UTC", days, begins, ends, since, until)


def _minutes(field: str, text: str, absent: int) -> int:
    if not text:
        return absent
    found = CLOCK.fullmatch(text)
    if found is None:
        raise WindowInvalid(field, f"{text} is not an hour and minute; write it like 08:00")
    return int(found[1]) * 60 + int(found[2])


def _seconds(field: str, text: str, absent: int) -> int:
    if not text:
        return absent
    try:
        found = datetime.fromisoformat(text) if INSTANT.fullmatch(text) else None
    except ValueError:  # such as 30 February
        found = None
    if found is None:
        raise WindowInvalid(field, f"{text} is not a date and time; write it like 2026-12-31T18:00:00Z")
    return min(max(int((found - datetime.fromtimestamp(0, UTC)).total_seconds()), 0), NEVER)


@cache
def zones() -> frozenset[str]:
    """Names of all time zones."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


@cache
def zone(name: str) -> ZoneInfo:
    """One of `zones`."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


class Clock:
    """Which rules may apply at a time. Rules are bits, as everywhere in a compiled policy.

    What was found last is kept as long as it stays true, a minute at most: asking again within it costs nothing.
    """

    __slots__ = ("_bounds", "_last", "_spans", "_unknown", "always")

    def __init__(self, windows: Iterable[tuple[int, bool, Sequence[Window]]]) -> None:
        """`windows` are bit, whether it denies, and windows, rule by rule. Raises WindowInvalid."""
        self.always = self._unknown = 0
        masks: defaultdict[Span, int] = defaultdict(int)
        for bit, denies, given in windows:
            if not given:
                self.always |= 1 << bit
            if not given or denies:
                # Not knowing the time must neither open what opens at times only, nor the way past a denial.
                self._unknown |= 1 << bit
            for window in given:
                masks[span(window)] |= 1 << bit
        by_zone: defaultdict[str, list[tuple[Span, int]]] = defaultdict(list)
        for found, mask in masks.items():
            by_zone[found.zone].append((found, mask))
        self._spans = [(zone(name), tuple(found)) for name, found in by_zone.items()]
        self._bounds = sorted({bound for found in masks for bound in (found.since, found.until)})
        self._last = (0, 0, 0)  # from, until, mask; replaced whole, so that threads may share it

    @property
    def spans(self) -> Iterator[Span]:
        """Every window, once."""
        return (found for _, spans in self._spans for found, _ in spans)

    def mask(self, at: int) -> int:
        """The rules whose windows hold at `at`, or that have none; 0 is a time that nobody knows."""
        since, until, mask = self._last
        if since <= at < until:
            return mask
        if not self._spans:
            return self.always
        return self._find(at) if 0 < at < NEVER else self._unknown

    def _find(self, at: int) -> int:
        mask = self.always
        for place, spans in self._spans:
            local = datetime.fromtimestamp(at, place)
            weekday, minute = local.weekday(), local.hour * 60 + local.minute
            for found, rules in spans:
                if found.holds(at, weekday, minute):
                    mask |= rules
        started, place_of = at - at % 60, bisect_right(self._bounds, at)
        since = max(started, self._bounds[place_of - 1] if place_of else 0)
        until = min(started + 60, self._bounds[place_of] if place_of < len(self._bounds) else NEVER)
        self._last = (since, until, mask)
        return mask
