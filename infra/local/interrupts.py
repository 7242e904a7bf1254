"""Ends on Ctrl-C and SIGTERM, whatever the process that started this one left behind.

A shell starts a background job with SIGINT ignored (POSIX 2.11), and a signal that is ignored or blocked stays so over
exec: Python then installs no handler of its own, and a demo in the background would never hear its end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def hear() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM from now on. In the main thread."""
    for number in ENDING:
        signal.signal(number, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """The same within the block, and at the closing of the terminal too; afterwards all is as it was before."""
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGHUP)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    hear()
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
