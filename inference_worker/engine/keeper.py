"""Starts the engine and sees to it that nothing of it outlives the worker; runs as a small process of its own.

    python -I -S keeper.py LOG LOG_BYTES GRACE PROGRAM ARG...

The engine is several processes (vLLM's server, its core, one for each GPU), so the parent-death signal of Linux,
which reaches a direct child alone, is not enough. This process leads its own session, starts the engine in a process
group of its own, and kills that whole group when

* its standard input ends: the worker is gone, however it went;
* it gets SIGTERM: first SIGTERM to the engine, after GRACE seconds SIGKILL to the group;
* the engine's first process ends: what it left behind ends too.

It also writes the engine's output to LOG, of which two halves of LOG_BYTES / 2 are kept. On its standard output it
prints the engine's process id, so the worker can end the group even if this process was killed. Its exit status
is the engine's. Only the standard library, no site-packages: about 10 MB, 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY_SCORE = "500"  # when memory ends, the kernel takes the engine and not the worker or a database


class Log:
    """A file that starts anew at half of its size, the former half kept beside it."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._half = path, max(limit // 2, 4096)
        self._file = self._open()

    def _open(self) -> IO[bytes]:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; a full disk loses lines, never the engine."""
        try:
            if self._file.tell() + len(data) > self._half:
                self._file.close()
                self._path.replace(self._path.with_suffix(".log.1"))
                self._file = self._open()
            self._file.write(data)
        except OSError:
            return


def _in_child() -> None:
    """Between fork and exec; this process has a single thread, so that is safe."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
    except OSError:
        return


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def keep(log: Log, grace: float, command: list[str]) -> int:
    """Run `command` until it ends or must end; answers its exit status, negative for a signal."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_in_child,  # noqa: PLW1509 - single-threaded, see above
        )
    except OSError as error:
        log.write(f"cannot start {command[0]}: {error}\n".encode())
        return 127
    print(engine.pid, flush=True)
    output = engine.stdout.fileno() if engine.stdout is not None else -1
    os.set_blocking(output, False)
    with selectors.DefaultSelector() as selector:
        for source in (output, reader, 0):
            selector.register(source, selectors.EVENT_READ)
        deadline: float | None = None
        try:
            while engine.poll() is None and (deadline is None or time.monotonic() < deadline):
                for key, _ in selector.select(None if deadline is None else 0.1):
                    data = os.read(key.fd, 65536)
                    if key.fd == reader:
                        if signal.SIGTERM in data and deadline is None:
                            deadline = time.monotonic() + grace
                            engine.terminate()
                    elif key.fd == 0:
                        return 1  # the worker is gone
                    elif data:
                        log.write(data)
                    else:
                        selector.unregister(key.fd)
        finally:
            _kill_group(engine.pid)
            engine.wait()
            _drain(output, log)
    return engine.returncode


def _drain(descriptor: int, log: Log) -> None:
    try:
        while data := os.read(descriptor, 65536):
            log.write(data)
    except BlockingIOError:
        return


def main(argv: list[str]) -> int:
    """Entry; see above."""
    log, limit, grace, *command = argv
    status = keep(Log(Path(log), int(limit)), float(grace), command)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
