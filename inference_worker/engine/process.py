"""One run of the engine: a keeper (keeper.py) and the process group that it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
KEEPER = Path(__file__).with_name("keeper.py")
LOG_TAIL = 16_384


class EngineProcess:
    """A started engine. `group` is the process group of all its processes, which is its first process's id."""

    def __init__(self, keeper: Process, group: int) -> None:
        self._keeper = keeper
        self.group = group

    @classmethod
    async def start(
        cls, command: list[str], *, environment: dict[str, str], cwd: Path, log: Path, log_bytes: int
    ) -> EngineProcess:
        """Start `command`. Raises OSError when not even the keeper starts."""
        keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(KEEPER), str(log), str(log_bytes), str(GRACE), *command,
            stdin=PIPE, stdout=PIPE, stderr=DEVNULL, cwd=cwd, env=environment, start_new_session=True,
        )  # fmt: skip
        line = await keeper.stdout.readline() if keeper.stdout is not None else b""
        return cls(keeper, int(line) if line else 0)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._keeper.returncode is None

    async def wait(self) -> int:
        """Until it ends; the exit status, 128 + number for a signal."""
        return await self._keeper.wait()

    async def stop(self) -> None:
        """SIGTERM, and after the grace period SIGKILL to the whole group."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._keeper.terminate()
            try:
                async with asyncio.timeout(GRACE + 5):
                    await self._keeper.wait()
            except TimeoutError:
                self.kill()
        self._kill_group()
        await self._keeper.wait()

    def kill(self) -> None:
        """SIGKILL to everything, at once."""
        self._kill_group()
        with contextlib.suppress(ProcessLookupError):
            self._keeper.kill()

    def _kill_group(self) -> None:
        if self.group > 1:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)

    def memory(self) -> int:
        """Bytes of anonymous memory that the group holds resident (files mapped from disk are not counted)."""
        return sum(_anonymous(pid) for pid in _members(self.group))


def _members(pid: int) -> list[int]:
    """A process and all below it (proc(5), /proc/<pid>/task/<tid>/children)."""
    members = [pid]
    with contextlib.suppress(OSError):
        for task in os.scandir(f"/proc/{pid}/task"):
            for child in Path(task.path, "children").read_text().split():
                members += _members(int(child))
    return members


def _anonymous(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def last_words(log: Path, lines: int = 5) -> str:
    """The end of the engine's log, for a person who asks why it did not start (nothing was asked of it yet)."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])[:600]
