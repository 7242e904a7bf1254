"""Builds the demo model with the engine's interpreter, which has the libraries for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class ModelError(RuntimeError):
    """The model could not be built; the message holds the reason."""


@dataclass(frozen=True)
class BuiltModel:
    """A model folder, `<models>/<digest>`."""

    name: str
    digest: str
    folder: Path


def build(engine_python: Path, models: Path, report: Callable[[str], None] = lambda line: None) -> BuiltModel:
    """Build the demo model below `models` unless it is there; `report` receives lines of progress."""
    command = [str(engine_python), "-m", "infra.demo_model.build", "--models", str(models.resolve())]
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            if lines:
                report(lines[-1])
            lines.append(line.rstrip())
    if process.returncode != 0:
        raise ModelError("building the demo model failed:\n" + "\n".join(lines[-8:]))
    result = json.loads(lines[-1])
    return BuiltModel(result["name"], result["digest"], Path(result["folder"]))
