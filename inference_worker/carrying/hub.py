"""Celery's event loop as a guest of asyncio's.

Celery reads its broker with kombu's Hub, which waits in `poll` and so needs a thread; each message then crosses to the
event loop that runs the jobs and back. Here the rounds of the hub run on the event loop itself, when the hub's poller
is readable, when one of its timers is due and when it was given something to do. What may block (connecting,
reconnecting with pauses, shutting down) stays in Celery's own thread: it hands the hub over only for `TURN` seconds
at a time, and gets every error.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any

from celery.worker import WorkController, state
from kombu.asynchronous import Hub, set_event_loop

TURN = 1.0  # seconds between the looks that Celery's thread takes at its own state


def _nothing() -> None:
    """For a descriptor that is never readable."""


class LoopHub(Hub):
    """A hub whose rounds run on `loop`; `create_loop` is called, and its generator advanced, in Celery's thread."""

    # Of kombu's Hub, missing in its stubs.
    _loop_thread: int | None
    _ready: set[Any]

    def __init__(self, loop: asyncio.AbstractEventLoop, timer: Any = None) -> None:
        self._asyncio = loop
        self._rounds: Iterator[None] | None = None
        self._turn: Future[BaseException | None] | None = None
        self._next: asyncio.Handle | None = None
        self._soon = False  # whether `_next` is due in this iteration; the kinds of handles differ with the loop
        self._end: asyncio.TimerHandle
        self._readable = -1
        self._wait = 0.0
        self._busy = False
        self._never = os.eventfd(0)
        super().__init__(timer)

    def create_loop(self, *_: Any, **__: Any) -> Generator[None, None, None]:
        """Each `next` lets the event loop run the hub for a turn. Raises what a round raised."""
        rounds = super().create_loop()
        while True:
            turn: Future[BaseException | None] = Future()
            self._asyncio.call_soon_threadsafe(self._begin_turn, rounds, turn)
            error = turn.result()
            if isinstance(error, StopIteration):
                return  # kombu wants the rounds made anew
            if error is not None:
                raise error
            yield

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any:
        """From any thread; on the event loop itself without a system call."""
        promise = super().call_soon(callback, *args)
        if threading.get_ident() == self._loop_thread:
            self._schedule()
        return promise

    def give_back(self, error: BaseException | None = None) -> None:
        """End the turn, so that Celery's thread sees a changed state at once. On the event loop."""
        if self._turn is None:
            return
        turn, self._turn, self._rounds = self._turn, None, None
        self._asyncio.remove_reader(self._readable)
        self._end.cancel()
        self._cancel_next()
        turn.set_result(error)

    def _create_poller(self) -> None:
        super()._create_poller()
        poll = self.poller.poll

        def look(timeout: float | None) -> Any:
            self._wait = TURN if timeout is None else timeout
            events = poll(0)
            self._busy = bool(events)
            return events

        self.poller.poll = look

    def close(self, *args: Any) -> None:
        """With its own descriptor."""
        super().close(*args)
        if self._never >= 0:
            os.close(self._never)
            self._never = -1

    def _begin_turn(self, rounds: Iterator[None], turn: Future[BaseException | None]) -> None:
        self._rounds, self._turn = rounds, turn
        if not self.readers:  # kombu would sleep, and the event loop with it
            self.add_reader(self._never, _nothing)
        self._readable = self.poller._epoll.fileno()  # kombu offers no name for it
        self._end = self._asyncio.call_later(TURN, self.give_back)
        self._asyncio.add_reader(self._readable, self._round)
        self._schedule()

    def _schedule(self) -> None:
        """A round in this iteration of the event loop; one however often it is asked for."""
        if self._rounds is None or self._soon:
            return
        self._cancel_next()
        self._next, self._soon = self._asyncio.call_soon(self._round), True

    def _cancel_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next, self._soon = None, False

    def _round(self) -> None:
        self._cancel_next()
        if self._rounds is None:
            return
        try:
            next(self._rounds)
        except BaseException as error:  # noqa: BLE001 - Celery's SystemExit too: its thread acts on it, not this one
            self.give_back(error)
            return
        if state.should_stop is not None or state.should_terminate is not None:
            self.give_back()
        elif self._busy or self._ready:
            self._schedule()  # transports ask for more at the start of a round
        elif self._next is None:
            self._next = self._asyncio.call_later(self._wait, self._round)


class LoopWorker(WorkController):
    """A Celery worker whose hub runs on `app.conf.kasbah_loop`."""

    _conninfo: Any  # missing in Celery's stubs

    def on_init_blueprint(self) -> None:
        """Before the components are made."""
        set_event_loop(None)  # of a worker before this one
        self._conninfo.requires_hub = functools.partial(LoopHub, self.app.conf.kasbah_loop)
        super().on_init_blueprint()
