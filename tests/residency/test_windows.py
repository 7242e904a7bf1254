"""When rules apply: hours of a place's clocks, nights, summer time, dates, and times that nobody knows."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.residency.instants import changes, instants
from kasbah.residency.services import compile_policy, decide, validate
from kasbah.residency.windows import Clock, zones

from .documents import NOON, WINDOWS, allow, ask, deny, document, rules, times


def at(text: str) -> int:
    """Seconds since the epoch."""
    return int(datetime.fromisoformat(text).timestamp())


def is_open(window: dict[str, Any], moment: int) -> bool:
    """Whether a rule that allows within this window does at a moment."""
    return decide(compile_policy(document(allow(windows=[window]))), ask(at=moment)).allowed


NIGHT = {"days": ["fri"], "from": "22:00", "to": "06:00", "zone": "Europe/Paris"}
CASES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("first minute", WINDOWS[0], "2026-01-05T08:00:00+01:00", True),
    ("before it", WINDOWS[0], "2026-01-05T07:59:59+01:00", False),
    ("last second", WINDOWS[0], "2026-01-05T17:59:59+01:00", True),
    ("after it", WINDOWS[0], "2026-01-05T18:00:00+01:00", False),
    ("another day", WINDOWS[0], "2026-01-04T12:00:00+01:00", False),
    ("summer time moves with the clocks", WINDOWS[0], "2026-07-06T06:00:00Z", True),
    ("which in winter is too early", WINDOWS[0], "2026-01-05T06:00:00Z", False),
    ("a night begins on its day", NIGHT, "2026-01-09T22:00:00+01:00", True),
    ("and goes on after midnight", NIGHT, "2026-01-10T05:59:59+01:00", True),
    ("until its end", NIGHT, "2026-01-10T06:00:00+01:00", False),
    ("the night before it is another day's", NIGHT, "2026-01-09T05:00:00+01:00", False),
    ("the next evening too", NIGHT, "2026-01-10T22:00:00+01:00", False),
    ("to midnight", {"from": "18:00", "to": "00:00"}, "2026-01-05T23:59:59Z", True),
    ("not beyond", {"from": "18:00", "to": "00:00"}, "2026-01-06T00:00:00Z", False),
    ("an hour that the clocks leave out", {"from": "02:15", "to": "02:45", "zone": "Europe/Paris"},
     "2026-03-29T01:30:00Z", False),
    ("an hour that comes twice, once", {"from": "02:15", "to": "02:45", "zone": "Europe/Paris"},
     "2026-10-25T00:30:00Z", True),
    ("and again", {"from": "02:15", "to": "02:45", "zone": "Europe/Paris"}, "2026-10-25T01:30:00Z", True),
    ("half an hour off", {"from": "09:00", "to": "09:01", "zone": "Asia/Kolkata"}, "2026-01-05T03:30:59Z", True),
    ("the first second", {"not_before": "2026-01-05T10:00:07Z"}, "2026-01-05T10:00:07Z", True),
    ("the one before", {"not_before": "2026-01-05T10:00:07Z"}, "2026-01-05T10:00:06Z", False),
    ("the last second of all", {"not_after": "2026-01-05T10:00:07+01:00"}, "2026-01-05T09:00:07Z", True),
    ("the one after", {"not_after": "2026-01-05T10:00:07+01:00"}, "2026-01-05T09:00:08Z", False),
]  # fmt: skip


@pytest.mark.parametrize(("window", "moment", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_window_holds_as_clocks_on_the_wall_show_it(window: dict[str, Any], moment: str, expected: bool) -> None:
    assert validate(document(allow(windows=[window]))) == []
    assert is_open(window, at(moment)) is expected


def test_any_window_is_enough() -> None:
    both = compile_policy(document(allow(windows=[WINDOWS[0], {"days": ["sun"]}])))
    assert decide(both, ask(at=NOON)).allowed
    assert decide(both, ask(at=at("2026-01-04T12:00:00Z"))).allowed
    assert not decide(both, ask(at=at("2026-01-03T12:00:00Z"))).allowed


@pytest.mark.parametrize("unknown", [0, -1, 10**15])
def test_where_the_time_is_not_known_nothing_opens_and_every_denial_holds(unknown: int) -> None:
    assert not is_open({"not_before": "2000-01-01T00:00:00Z"}, unknown)
    denied = compile_policy(document(allow(), deny(windows=[{"not_after": "2000-01-01T00:00:00Z"}])))
    assert not decide(denied, ask(at=unknown)).allowed
    assert decide(denied, ask(at=NOON)).allowed
    assert decide(compile_policy(document(allow())), ask(at=unknown)).allowed


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "", "says nothing"),
    ({"zone": "Europe/Paris"}, "", "names no time"),
    ({"from": "08:00", "to": "08:00"}, "/to", "ends when it begins"),
    ({"to": "00:00"}, "/to", "ends when it begins"),
    ({"from": "8:00"}, "/from", '"8:00" is not an hour and minute, such as 08:00'),
    ({"from": "24:00"}, "/from", "not an hour"),
    ({"days": ["monday"]}, "/days/0", "not one of mon"),
    ({"from": "08:00", "zone": "Europe/Nowhere"}, "/zone", "not a time zone"),
    ({"from": "08:00", "zone": "../../etc/passwd"}, "/zone", "not a time zone"),
    ({"from": "08:00", "zone": "Europe"}, "/zone", "not a time zone"),
    ({"not_before": "2026-02-30T00:00:00Z"}, "/not_before", "not a date and time"),
    ({"not_before": "2026-01-01T00:00:00"}, "/not_before", "not a date and time with its distance"),
    (
        {"not_before": "2026-01-02T00:00:00Z", "not_after": "2026-01-01T00:00:00Z"},
        "/not_after",
        "over before it begins",
    ),
    ({"until": "18:00"}, "/until", "no such field"),
]


@pytest.mark.parametrize(("window", "path", "says"), WRONG)
def test_a_window_that_is_no_window(window: dict[str, Any], path: str, says: str) -> None:
    problem = validate(document(deny(windows=[window])))[0]
    assert problem.path == f"/rules/0/windows/0{path}", problem
    assert says in problem.message


def test_zones_come_with_the_platform() -> None:
    assert {"UTC", "Europe/Paris", "Africa/Casablanca", "Asia/Tokyo", "Asia/Dubai"} <= zones()
    assert len(changes("Europe/Paris")) == 160  # two a year from 2020 to 2099
    assert changes("Asia/Tokyo") == ()


@given(rules(), st.lists(times(), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_what_a_clock_remembers_is_what_it_would_find(found: list[dict[str, Any]], moments: list[int]) -> None:
    kept = compile_policy(document(*found)).clock
    assert [kept.mask(moment) for moment in moments] == [
        compile_policy(document(*found)).clock.mask(moment) for moment in moments
    ]


def _clock(found: list[dict[str, Any]]) -> Clock:
    return compile_policy(document(*found)).clock


@given(rules(), rules(), times())
@settings(max_examples=30, deadline=None)
def test_the_instants_stand_for_every_time(one: list[dict[str, Any]], two: list[dict[str, Any]], moment: int) -> None:
    clocks = [_clock(one), _clock(two)]
    seen = {tuple(clock.mask(at) for clock in clocks) for at in instants(clocks)}
    assert not moment or tuple(clock.mask(moment) for clock in clocks) in seen


def test_deciding_takes_less_than_50_microseconds_when_all_of_1000_rules_have_windows() -> None:
    many = [
        {**(allow if number % 2 else deny)(f"rule-{number}"), "tags": ["*"], "purposes": [f"p{number}"], "sites": ["*"],
         "windows": [{**WINDOWS[0], "to": f"{12 + number % 12}:{number % 60:02}"}]}
        for number in range(1000)
    ]  # fmt: skip
    policy = compile_policy(document(*many))
    question = ask(tags=("personal", "health"), purpose="p999", at=at("2026-01-05T10:00:00Z"))
    assert decide(policy, question).rule == "rule-999"
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            decide(policy, question)
        rounds.append((time.perf_counter() - start) / 100)
    assert min(rounds) < 50e-6, f"{min(rounds) * 1e6:.0f} us"
