"""A line is logged once a change, and then ever more seldom."""

from __future__ import annotations

import pytest

from inference_worker.contract import loggate
from inference_worker.contract.loggate import FIRST, LONGEST, LogGate


def test_same_state_is_logged_once_then_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loggate.time, "monotonic", lambda: now[0])
    gate, logged = LogGate(), []
    for second in range(int(FIRST * 8)):
        now[0] = float(second)
        if gate.due("site paris", "ConnectionError"):
            logged.append(second)
    assert logged == [0, FIRST, FIRST * 3, FIRST * 7]
    now[0] += LONGEST * 2
    assert gate.due("site paris", "ConnectionError")


def test_states_that_alternate_are_not_logged_each_time() -> None:
    gate = LogGate()
    assert [gate.due("a", state) for state in ["x", "y", "x", "y"]] == [True, True, False, False]
    assert gate.due("b", "x")  # another thing


def test_end_is_logged_once_and_what_begins_again_too() -> None:
    gate = LogGate()
    assert not gate.ended("a")
    gate.due("a", "x")
    assert gate.ended("a")
    assert not gate.ended("a")
    assert gate.due("a", "x")
