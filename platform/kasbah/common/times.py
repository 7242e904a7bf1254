"""Times that come as text: one parser for query parameters, bodies and the arguments of commands.

A time is written as RFC 3339 has it, 2026-11-30T08:00:00Z or with an offset; seconds and their fraction may be left
out, and so may the zone, which is UTC then. A day alone is its first moment. Python's own parser also takes weeks and
ordinals, and digits of other scripts. Between EARLIEST and LATEST every calendar, id and database can count on from it.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from rest_framework import serializers

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)  # the first that is not taken: a year must fit after each
FORM = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)([Zz]|[+-]\d{2}:\d{2})?)?", re.ASCII
)
WRITE_AS = "a time such as 2026-11-30T08:00:00Z, or a day, from 1970 to 9998"


class BadTime(ValueError):
    """A text that is no time, or one that is out of bounds; the message says how to write it."""


def read_time(text: str, *, zoned: bool = False) -> datetime:
    """The time that `text` writes, in UTC. `zoned`: only with a time zone. Raises BadTime."""
    form = FORM.fullmatch(text) if len(text) <= 40 else None
    if form is None:
        raise BadTime(f"Give {WRITE_AS}.")
    day, clock, zone = form.groups()
    if zoned and zone is None:
        raise BadTime("It has no time zone; give a time such as 2026-11-30T08:00:00Z.")
    try:
        found = datetime.fromisoformat(f"{day}T{_micro(clock or '00:00')}{(zone or 'Z').upper()}").astimezone(UTC)
    except (ValueError, OverflowError):  # 30 February, 25 o'clock, the first hour of year 1 at +14:00
        raise BadTime(f"There is no such time; give {WRITE_AS}.") from None
    return _bounded(found)


def read_day(text: str) -> date:
    """The day that `text` writes, such as 2026-11-30. Raises BadTime."""
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII) is None:
        raise BadTime("Give a day such as 2026-11-30.")
    return read_time(text).date()


def check_period(
    since: datetime | None, until: datetime | None, name: str = "until", *, now: datetime | None = None
) -> None:
    """Raises ValidationError naming `name` when the period is empty or ends before it begins."""
    end = until or now
    if since is not None and end is not None and since >= end:
        raise serializers.ValidationError({name: "The period ends before it begins."})


def moment(text: str) -> datetime:
    """A type for argparse, which names the option itself: a day or a time."""
    return _argument(text, zoned=False)


def time_argument(text: str) -> datetime:
    """The same for what is to happen at that time: with a time zone only."""
    return _argument(text, zoned=True)


def _argument(text: str, *, zoned: bool) -> datetime:
    try:
        return read_time(text, zoned=zoned)
    except BadTime as error:
        raise ArgumentTypeError(f"{text[:40]!a} is not a time such as 2027-01-01T00:00:00Z. {error}") from None


def _micro(clock: str) -> str:
    """At most six digits of a second: Python counts no finer."""
    whole, point, fraction = clock.partition(".")
    return f"{whole}.{fraction[:6]}" if point else whole


def _bounded(moment: datetime) -> datetime:
    if not EARLIEST <= moment < LATEST:
        raise BadTime(f"The time is out of bounds; give {WRITE_AS}.")
    return moment


class TimeField(serializers.DateTimeField):
    """A time of a body or a query string."""

    def to_internal_value(self, value: Any) -> datetime:
        """The time in UTC. Raises ValidationError."""
        try:
            return read_time(value if isinstance(value, str) else "")
        except BadTime as error:
            raise serializers.ValidationError(str(error)) from None


class DayField(serializers.DateField):
    """A day of a body."""

    def to_internal_value(self, value: Any) -> date:
        """The day. Raises ValidationError."""
        try:
            return read_day(value if isinstance(value, str) else "")
        except BadTime as error:
            raise serializers.ValidationError(str(error)) from None


class PeriodMixin(serializers.Serializer[Any]):
    """For a serializer with `since` and `until`: the one must be before the other."""

    def validate(self, attrs: Mapping[str, Any]) -> Any:
        """The values. Raises ValidationError."""
        names = {name: field.source or name for name, field in self.fields.items()}
        check_period(attrs.get(names["since"]), attrs.get(names["until"]))
        return super().validate(dict(attrs))
