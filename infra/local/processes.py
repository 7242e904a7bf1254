"""Children that end with their parent, and pid files that cannot name a stranger."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHILD = Path(__file__).with_name("child.py")

# The signal on a parent's death goes out when the THREAD that forked dies. This one lives as long as the
# process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@dataclass(frozen=True)
class Account:
    """An unprivileged account to run a child as; `pass_through` keeps the right to reach private folders."""

    uid: int
    gid: int
    pass_through: bool = False


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` (argv[0] an absolute path) in a session of its own, its output appended to `log`.

    It gets `death_signal` when this process dies, however it dies. Raises OSError when it cannot be started.
    """
    uid, gid, keep = (account.uid, account.gid, int(account.pass_through)) if account else (-1, -1, 0)
    wrapper = [
        sys.executable,
        "-I",
        "-S",
        str(CHILD),
        *map(str, (os.getpid(), int(death_signal), uid, gid, keep)),
    ]

    def start() -> subprocess.Popen[bytes]:
        with open_log(log) as output:
            return subprocess.Popen(
                [*wrapper, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    return _spawner.submit(start).result()


def open_log(path: Path) -> IO[bytes]:
    """A log to append to, readable by its owner alone; one of an earlier start is made so."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def started_at(pid: int) -> str | None:
    """When `pid` started, in clock ticks since boot (proc(5), stat field 22); None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def write_pid(path: Path, pid: int) -> None:
    """Remember `pid` together with its start time, so that a number used again later is not taken for it."""
    path.write_text(f"{pid} {started_at(pid)}\n")


def read_pid(path: Path) -> int | None:
    """The process `write_pid` remembered in `path`, if that very process still runs."""
    try:
        number, _, started = path.read_text().strip().partition(" ")
        pid = int(number)
    except (OSError, ValueError):
        return None
    return pid if started and started_at(pid) == started else None


def end(process: subprocess.Popen[bytes], *, how: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> bool:
    """Ask `process` to end by `how`; after `patience` seconds kill it. True when it ended by itself."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def await_end(pid: int, patience: float) -> bool:
    """Wait until `pid`, which need not be a child of ours, is gone. False when it is still there."""
    started, deadline = started_at(pid), time.monotonic() + patience
    while started is not None and started_at(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children(parent: int) -> list[int]:
    """Processes whose parent is `parent`, ended ones that wait to be reaped among them (proc(5), stat field 4)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found
