"""One parser reads every time that comes as text, and names what is wrong."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from kasbah.common import times
from kasbah.residency.windows import NEVER, Window, span
from tests import factories
from tests.api.conftest import error

GOOD = {
    "2026-11-30T08:00:00Z": datetime(2026, 11, 30, 8, tzinfo=UTC),
    "2026-11-30t08:00:00z": datetime(2026, 11, 30, 8, tzinfo=UTC),
    "2026-11-30 08:00": datetime(2026, 11, 30, 8, tzinfo=UTC),
    "2026-11-30T08:00:00.123456789+02:30": datetime(2026, 11, 30, 5, 30, 0, 123456, tzinfo=UTC),
    "2026-11-30": datetime(2026, 11, 30, tzinfo=UTC),
    "1970-01-01T00:00:00Z": times.EARLIEST,
    "1970-01-01T02:00:00+02:00": times.EARLIEST,
    "9998-12-31T23:59:59.999999Z": times.LATEST - timedelta(microseconds=1),
}
BAD = (
    "", "yesterday", "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00+00:01", "0001-01-01T00:00:00Z", "9999-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31", "10000-01-01T00:00:00Z", "2026-02-30",
    "2026-11-30T25:00:00Z", "2026-11-30T08:00:60Z", "2026-W48-1", "2026-334", "20261130", "2026-11-30T08", "1764489600",
    "2026-11-30T08:00:00+99:00", "2026-11-30T08:00:00Z\n", " 2026-11-30",
    "\u0662\u0660\u0662\u0666-11-30", "-2026-11-30",
    "2026-11-30T08:00:00Z\0", "2026-11-30T08:00:00" + "0" * 5000, "NaN", "2026-11-30T08:00:00[Europe/Paris]",
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_time_is_read_in_utc(text: str) -> None:
    assert times.read_time(text) == GOOD[text]
    assert times.moment(text) == GOOD[text]


def short(value: str) -> str:
    return ascii(value)[:30]


@pytest.mark.parametrize("text", BAD, ids=short)
def test_what_is_no_time_or_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(times.BadTime):
        times.read_time(text)
    for read in (times.moment, times.time_argument):
        with pytest.raises(ArgumentTypeError, match="is not a time such as") as refused:
            read(text)
        assert len(str(refused.value)) < 300


def test_what_is_to_happen_at_a_time_needs_a_zone() -> None:
    with pytest.raises(ArgumentTypeError, match="no time zone"):
        times.time_argument("2027-01-01T00:00")
    assert times.time_argument("2027-01-01T00:00Z") == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_day_is_a_day() -> None:
    assert times.read_day("2026-11-01") == date(2026, 11, 1)
    for text in ("2026-11", "1960-01-01", "9999-01-01", "2026-11-01T00:00:00Z", "2026-13-01"):
        with pytest.raises(times.BadTime):
            times.read_day(text)


@pytest.mark.parametrize("rim", ["0001-01-01T00:00:00+14:00", "1960-01-01T00:00:00Z"])
def test_a_policys_window_at_the_rim_holds_from_the_first_second_on(rim: str) -> None:
    assert span(Window(not_before=rim)).since == 0
    assert span(Window(not_after="9999-12-31T23:59:59-14:00")).until == NEVER + 1


def paths(slug: str) -> dict[str, tuple[str, str, str]]:
    """Every list with a period: its path and the names of the two."""
    at = f"/api/tenants/{slug}"
    return {
        "usage": (f"{at}/usage/", "since", "until"),
        "summary": (f"{at}/usage/summary/", "since", "until"),
        "jobs": (f"{at}/jobs/", "since", "until"),
        "export": (f"{at}/audit-log/export/", "from", "to"),
    }


@pytest.mark.parametrize("which", ["usage", "summary", "jobs", "export"])
def test_a_wrong_time_of_a_query_is_a_400_by_name(admin: Any, home: factories.Household, which: str) -> None:
    path, begin, end = paths(home.tenant.slug)[which]
    for name in (begin, end):
        for text in BAD[1:]:
            response = admin.get(path, {name: text})
            assert response.status_code == 400, (name, text)
            assert error(response)["param"] == name
    response = admin.get(path, {begin: "2026-02-01", end: "2026-01-01"})
    assert (response.status_code, error(response)["param"]) == (400, end)


def bodies(home: factories.Household) -> dict[str, tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Every body with a time."""
    at = f"/api/tenants/{home.tenant.slug}"
    person = {"basis": "own_decision", "reason": "r", "person": str(home.admin.id)}
    key = {"project": str(home.project.id), "name": "k", "scopes": ["inference"]}
    return {
        "hold": (f"{at}/legal-holds/", {"reason": "r", "reference": "1"}, ("since", "until")),
        "erasure": (f"{at}/erasures/", person, ("since", "until")),
        "month": (f"{at}/erasures/", {"basis": "own_decision", "reason": "r"}, ("month",)),
        "key": (f"{at}/api-keys/", key, ("expires_at",)),
    }


@pytest.mark.parametrize("which", ["hold", "erasure", "month", "key"])
def test_a_wrong_time_of_a_body_is_a_400_by_name(admin: Any, home: factories.Household, which: str) -> None:
    path, body, names = bodies(home)[which]
    for name in names:
        for text in (each for each in BAD if "\0" not in each):
            response = admin.post(path, {**body, name: text}, format="json")
            assert response.status_code == 400, (name, text, response.content)
            assert error(response)["param"] == name


@pytest.mark.parametrize(
    "arguments",
    [
        ["auditexport", "--system", "--output", "/nowhere/x.zip", "--from", "{}"],
        ["auditexport", "--system", "--output", "/nowhere/x.zip", "--to", "{}"],
        ["legalholds", "--tenant", "t", "place", "--since", "{}"],
        ["erasures", "--tenant", "t", "request", "--until", "{}"],
        ["decide", "--tenant", "t", "--at", "{}"],
        ["activatepolicy", "--tenant", "t", "--policy-version", "1", "--at", "{}"],
    ],
    ids=lambda given: f"{given[0]} {given[-2]}",
)
def test_a_wrong_time_of_a_command_names_the_option(arguments: list[str]) -> None:
    for text in ("1960-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon"):
        with pytest.raises(CommandError, match=arguments[-2]):
            call_command(*(each.format(text) for each in arguments))


def test_the_control_overflows_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a time at the rim does to what counts on from it."""
    monkeypatch.setattr(times, "_bounded", lambda moment: moment)
    later: Callable[[], datetime] = lambda: times.read_time("9999-12-31T23:59:59Z") + timedelta(days=1)  # noqa: E731
    with pytest.raises(OverflowError):
        later()
