"""How much is looked at before a text counts as one that cannot be looked through."""

from __future__ import annotations

import time

_TICKS = 64  # between two looks at the clock


class TooMuch(Exception):
    """There is more to look at than is looked at."""


class Budget:
    """Counts what a search does and raises TooMuch beyond it: checks of numbers, looks into numbering plans, and
    seconds of a processor, of the thread that it was made in: what others compute meanwhile does not count."""

    def __init__(self, checks: int, plans: int, seconds: float) -> None:
        self._checks, self._plans = checks, plans
        self._until = time.thread_time() + seconds
        self._ticks = 0

    def check(self) -> None:
        """One check of a number."""
        self._checks -= 1
        if self._checks < 0:
            raise TooMuch
        self.tick()

    def plan(self) -> None:
        """One look into the numbering plans."""
        self._plans -= 1
        if self._plans < 0:
            raise TooMuch
        self.tick()

    def tick(self) -> None:
        """One place in the text that was looked at."""
        self._ticks += 1
        if self._ticks % _TICKS == 0 and time.thread_time() > self._until:
            raise TooMuch
