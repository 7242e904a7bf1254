"""What a person sees while things happen: a line for each step, moving where it can, plain where it cannot."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

TICK = 0.2
PLAIN_EVERY = 15.0  # seconds between lines of a long step where the output is not a terminal


def duration(seconds: float) -> str:
    """`8 s`, `1 min 05 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


class Step:
    """One step. Use as context manager; `note` says what happens within it, `fraction` draws a bar.

    On a terminal the line is redrawn; elsewhere (CI, a pipe) a new line comes now and then. The closing line has the
    time taken and whether it went well.
    """

    def __init__(self, title: str, out: TextIO | None = None) -> None:
        self.title = title
        self._out = out or sys.stdout
        self._live = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._unicode = (self._out.encoding or "").lower().startswith("utf")
        self._note = ""
        self._fraction: float | None = None
        self._started = self._said = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Step:
        if not self._live:
            self._line(f"  {self.title} ...")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        mark = ("✓" if self._unicode else "done:") if kind is None else ("✗" if self._unicode else "not done:")
        note = f" - {self._note}" if self._note and kind is None and self._fraction is None else ""
        self._line(f"  {mark} {self.title} ({duration(time.monotonic() - self._started)}){note}")

    def note(self, text: str) -> None:
        """What is happening within the step, in a few words."""
        self._note = " ".join(text.split())

    def fraction(self, done: float) -> None:
        """How far the step is, 0 to 1."""
        self._fraction = min(max(done, 0.0), 1.0)

    def _run(self) -> None:
        frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if self._unicode else "|/-\\"
        count = 0
        while not self._ended.wait(TICK):
            elapsed = duration(time.monotonic() - self._started)
            detail = " ".join(part for part in (self._bar(), self._note) if part)
            if self._live:
                text = f"  {frames[count % len(frames)]} {self.title} {elapsed} {detail}"
                width = shutil.get_terminal_size().columns - 1
                self._out.write(f"\r\x1b[K{text[:width]}")
                self._out.flush()
            elif time.monotonic() - self._said >= PLAIN_EVERY:
                self._said = time.monotonic()
                self._line(f"    {self.title}: {elapsed} {detail}".rstrip())
            count += 1

    def _bar(self, width: int = 24) -> str:
        if self._fraction is None:
            return ""
        full = round(self._fraction * width)
        on, off = ("█", "░") if self._unicode else ("#", ".")
        return f"{on * full}{off * (width - full)} {int(self._fraction * 100):3d}%"

    def _line(self, text: str) -> None:
        self._out.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._out.flush()


def say(text: str = "") -> None:
    """A line for people, at once."""
    print(text, flush=True)
