"""What the code knows, read from its source: settings, commands, versions."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READERS = {
    "value", "key_bytes", "secret", "integer", "number", "switch", "choice", "matching", "entries", "address",
    "endpoint", "database_url",
}  # fmt: skip
# How a setting is found at all, and where the one-machine installation keeps its data: no setting of a server.
VARIABLE = re.compile(r"KASBAH_[A-Z][A-Z0-9_]*")


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file below these folders, parsed."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


@cache
def settings_read(*folders: str) -> dict[str, set[str]]:
    """Setting (upper case, without prefix) -> its defaults as written; "" as a member says that it has none."""
    found: dict[str, set[str]] = {}
    for _, module in sources(*folders):
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                function = node.func
                called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                name = node.args[0].value
                if called in READERS and isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
                    found.setdefault(name, set()).add(ast.unparse(node.args[1]) if len(node.args) > 1 else "")
    return found


@cache
def variables_read(*folders: str) -> set[str]:
    """Every KASBAH_ variable that is asked for by its whole name, and those of `settings_read`."""
    found = {f"KASBAH_{name}" for name in settings_read(*folders)}
    for _, module in sources(*folders):
        for node in ast.walk(module):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
                found.add(node.value)
    return found


def pins() -> dict[str, str]:
    """Distribution -> version, of every exact pin in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pairs = (re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair}
