"""Ending a process without cutting answers off: on SIGTERM nothing new is taken, what runs may end, the rest is told.

uvicorn waits for open connections before it tells the application that it ends, so the signal is listened to here too.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Protocol

GRACE = 8.0  # seconds in which open answers may end by themselves; the process is to be gone after ten


class Stoppable(Protocol):
    """An answer under way."""

    def stop(self, reason: str) -> None:
        """End it soon, with an error that says why."""


class Drain:
    """Knows the answers under way. Made inside the event loop of the main thread it listens for SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.answers: set[Stoppable] = set()
        self.begun = False
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._listen(number)

    def begin(self) -> None:
        """Take nothing new; end what is still under way after the grace period."""
        if not self.begun:
            self.begun = True
            self._loop.call_later(GRACE, self._stop_all)

    def _stop_all(self) -> None:
        for answer in list(self.answers):
            answer.stop("server_shutting_down")

    def _listen(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)

        def heard(received: int, frame: FrameType | None) -> None:
            self._loop.call_soon_threadsafe(self.begin)
            if callable(before):
                before(received, frame)

        handler: Callable[[int, FrameType | None], None] = heard
        if callable(before):  # else nobody serves here who would end in an orderly way
            signal.signal(number, handler)
