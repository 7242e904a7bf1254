"""Runs pip in a virtual environment: silent for minutes by nature, so its last word is shown as it works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path


class PipFailed(RuntimeError):
    """pip ended with an error; the message has its last lines."""


class Pip:
    """pip of the environment `venv`; everything it says goes to `log`, its current work to `note`."""

    def __init__(self, venv: Path, log: Path, note: Callable[[str], None] = lambda text: None) -> None:
        self.python = venv / "bin" / "python"
        self.log = log
        self._note = note

    def install(self, *arguments: str) -> None:
        """`pip install ARGUMENTS`. Raises PipFailed."""
        self._run("install", "--no-input", "--progress-bar", "off", "--disable-pip-version-check", *arguments)

    def uninstall(self, *packages: str) -> None:
        """Remove packages that are there; others are no error. Raises PipFailed."""
        self._run("uninstall", "--yes", "--disable-pip-version-check", *packages)

    def _run(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", *arguments]
        lines: list[str] = []
        with (
            self.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PIP_ROOT_USER_ACTION": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            log.write(f"$ {' '.join(command)}\n")
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                lines.append(line.rstrip())
                if (shown := _shown(line)) is not None:
                    self._note(shown)
        if process.returncode != 0:
            said = [line for line in lines if line.startswith("ERROR")] or lines
            raise PipFailed("\n".join(said[-4:]))


def _shown(line: str) -> str | None:
    """What of a line of pip is worth showing: what it fetches, with the size, and what it installs."""
    words = line.split()
    if not words:
        return None
    if words[0] == "Downloading" and len(words) > 1:
        name = words[1].rpartition("/")[2].partition("-")[0]
        return f"fetching {name} {' '.join(words[2:])}"
    if words[0] in {"Collecting", "Processing"} and len(words) > 1:
        return f"looking at {words[1].rpartition('/')[2][:60]}"
    if line.startswith("Installing collected packages"):
        return f"installing {line.count(',') + 1} packages"
    if words[0] in {"Preparing", "Building", "Uninstalling"}:
        return " ".join(words[:4])
    return None
