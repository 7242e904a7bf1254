"""One item's fault stops no other item, and only a database that is away stops them all."""

from __future__ import annotations

import logging

import pytest
from django.db import OperationalError, connection

from kasbah.common.isolation import Isolation

logger = logging.getLogger(__name__)


def run(isolation: Isolation, faults: dict[str, Exception]) -> list[str]:
    done = []
    for name in "abc":
        with isolation.apart(f"item {name}", KeyError):
            if name in faults:
                raise faults[name]
            done.append(name)
    return done


@pytest.mark.django_db
def test_fault_of_one_item_stops_no_other_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    isolation = Isolation(logger)
    for _ in range(3):
        assert run(isolation, {"b": ValueError("x")}) == ["a", "c"]
    assert [each.getMessage() for each in caplog.records] == [
        "item b failed and is left for the next time; the others go on"
    ]
    assert isolation.faults == 3
    assert run(isolation, {}) == ["a", "b", "c"]
    assert caplog.records[-1].getMessage() == "item b works again"


@pytest.mark.django_db
def test_errors_that_may_pass_and_a_database_that_is_away_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation = Isolation(logger)
    with pytest.raises(KeyError):
        run(isolation, {"b": KeyError("x")})
    assert run(isolation, {"b": OperationalError("deadlock")}) == ["a", "c"]
    monkeypatch.setattr(connection, "is_usable", lambda: False)
    with pytest.raises(OperationalError):
        run(isolation, {"b": OperationalError("away")})
