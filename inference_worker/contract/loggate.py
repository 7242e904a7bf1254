"""When something that goes on is logged: once when it begins or changes, then ever more seldom."""

from __future__ import annotations

import time
from dataclasses import dataclass

FIRST, LONGEST = 60.0, 3600.0  # seconds until the same is logged again; it doubles
MOST = 50  # states of one thing that are told apart


@dataclass(slots=True)
class _Logged:
    next_at: float
    pause: float


class LogGate:
    """Asked before each line about a thing: `due` where the line says something new."""

    def __init__(self) -> None:
        self._logged: dict[str, dict[str, _Logged]] = {}

    def due(self, thing: str, state: str) -> bool:
        """Whether to log now that `thing` is in a bad `state`: it was not since `ended`, or was last logged long ago.

        Two states that alternate are each logged as if alone.
        """
        now, states = time.monotonic(), self._logged.setdefault(thing, {})
        known = states.get(state)
        if known is not None and now < known.next_at:
            return False
        if len(states) >= MOST:
            states.clear()
        pause = FIRST if known is None else min(known.pause * 2, LONGEST)
        states[state] = _Logged(now + pause, pause)
        return True

    def ended(self, thing: str) -> bool:
        """Whether to log now that it is over: it was logged before."""
        return self._logged.pop(thing, None) is not None
