"""What the embedded servers have in common: how they are ended, killed and started again."""

from __future__ import annotations

import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from infra.local import processes


@dataclass
class Server(ABC):
    """A server on data of its own. `ENDED_BY` is the signal on which it writes everything and ends."""

    ENDED_BY: ClassVar[signal.Signals]
    PATIENCE: ClassVar[float]  # seconds it has for that

    process: subprocess.Popen[bytes] | None = field(default=None, repr=False, kw_only=True)

    @abstractmethod
    def start(self) -> None:
        """Start on the existing data and wait until it answers."""

    def stop(self) -> None:
        """Let it end its sessions, write everything and end."""
        if self.process is not None:
            processes.end(self.process, how=self.ENDED_BY, patience=self.PATIENCE)
            self.process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Stop (when running) and start on the same data, at the same address."""
        self.stop()
        self.start()
