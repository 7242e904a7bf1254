"""The processes of the one-machine installation, each startable, stoppable and watched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from infra.local import processes

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
STEADY = 60.0  # seconds up after which a service's failures are forgotten
LOG_LIMIT = 10 * 2**20  # bytes a log may have before its beginning moves to `.1`
PR_SET_CHILD_SUBREAPER = 36


class Service(Protocol):
    """What the supervisor keeps alive: an embedded server or a program."""

    @property
    def log(self) -> Path:
        """Where its output goes."""

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """Its process while it is meant to run."""

    def start(self) -> None:
        """Start it; servers return when they answer."""

    def stop(self) -> None:
        """End it in order, and by force when it does not."""


@dataclass
class Program:
    """A program of ours with its own environment."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path
    patience: float = 15.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; returns at once."""
        self.process = processes.spawn(self.argv, log=self.log, env=self.env, cwd=self.cwd)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after `patience` seconds."""
        if self.process is not None:
            processes.end(self.process, patience=self.patience)
            self.process = None


@dataclass
class _Kept:
    name: str
    service: Service
    started: float
    pause: float = FIRST_PAUSE
    again_at: float | None = None


class Supervisor:
    """Starts services in order, starts again what dies, ends them in the opposite order, leaves nothing behind."""

    def __init__(self, run: Path, report: Callable[[str], None]) -> None:
        self._run = run
        self._report = report
        self._kept: list[_Kept] = []
        self.failures: dict[str, int] = {}  # how often each died
        self._strays: dict[int, float] = {}
        self._others = set(processes.children(os.getpid()))  # not ours to end
        _adopt_orphans(True)

    def start(self, name: str, service: Service) -> None:
        """Start `service` and keep it alive from now on."""
        service.start()
        self._kept.append(_Kept(name, service, time.monotonic()))
        self._note_pid(name, service)

    def look(self) -> None:
        """To be called about once a second: restart what died, end strays, keep logs short. Never raises OSError."""
        now = time.monotonic()
        for kept in self._kept:
            process = kept.service.process
            if kept.again_at is None and (process is None or process.poll() is not None):
                self._died(kept, process, now)
            if kept.again_at is not None and now >= kept.again_at:
                self._again(kept)
            limit_log(kept.service.log)
        self._end_strays(now)

    def _died(self, kept: _Kept, process: subprocess.Popen[bytes] | None, now: float) -> None:
        if now - kept.started > STEADY:
            kept.pause = FIRST_PAUSE
        kept.again_at = now + kept.pause
        self.failures[kept.name] = self.failures.get(kept.name, 0) + 1
        how = "is gone" if process is None else ended_how(process.returncode)
        self._report(f"{kept.name} {how}; starting it again in {kept.pause:.0f} s (log: {kept.service.log})")
        kept.pause = min(kept.pause * 2, LONGEST_PAUSE)

    def _again(self, kept: _Kept) -> None:
        kept.again_at = None
        kept.started = time.monotonic()
        try:
            kept.service.start()
        except (OSError, RuntimeError) as error:
            kept.again_at = time.monotonic() + kept.pause
            self._report(f"{kept.name} could not be started: {error}; trying again in {kept.pause:.0f} s")
            kept.pause = min(kept.pause * 2, LONGEST_PAUSE)
        else:
            self._note_pid(kept.name, kept.service)
            self._report(f"{kept.name} is started again")

    def _note_pid(self, name: str, service: Service) -> None:
        if service.process is not None:
            processes.write_pid(self._run / f"{name}.pid", service.process.pid)

    def _end_strays(self, now: float) -> None:
        """End children that are not ours by start: a lost parent's. Politely first."""
        known = {kept.service.process.pid for kept in self._kept if kept.service.process is not None}
        for pid in self._children() - known:
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    self._strays.pop(pid, None)
                    continue
                first = self._strays.setdefault(pid, now)
                os.kill(pid, signal.SIGTERM if now - first < 5.0 else signal.SIGKILL)

    def stop(self, note: Callable[[str], None] = lambda text: None) -> list[str]:
        """End everything in the opposite order of starting. Returns the names of what had to be killed."""
        killed = []
        for kept in reversed(self._kept):
            note(kept.name)
            process = kept.service.process
            kept.service.stop()
            if process is not None and process.returncode == -signal.SIGKILL and kept.again_at is None:
                killed.append(kept.name)
            (self._run / f"{kept.name}.pid").unlink(missing_ok=True)
        self._kept.clear()
        deadline = time.monotonic() + 10.0
        while self._children() and time.monotonic() < deadline:
            self._end_strays(time.monotonic())
            time.sleep(0.1)
        _adopt_orphans(False)
        return killed

    def _children(self) -> set[int]:
        return set(processes.children(os.getpid())) - self._others


def _adopt_orphans(wanted: bool) -> None:
    """Descendants whose parent dies come to this process (prctl(2), PR_SET_CHILD_SUBREAPER): to be found and ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def ended_how(status: int) -> str:
    """`ended with status 1`, `was killed by SIGKILL`."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def limit_log(log: Path) -> None:
    """Move a log that grew too long to `<log>.1` and empty it; its writers have it open for appending and go on."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_LIMIT:
            before = log.with_name(log.name + ".1")
            processes.open_log(before).close()
            shutil.copyfile(log, before)
            os.truncate(log, 0)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
