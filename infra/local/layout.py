"""The rules of the source tree that no other tool checks (docs/decisions, 0001)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_FILE = 500  # lines
SOURCES = ("platform", "inference_worker", "admin_ui", "infra", "tests", "benchmarks")


def problems(root: Path) -> Iterator[str]:
    """Everything that is wrong with the tree at `root`."""
    yield from platform_folder(root)
    for name in SOURCES:
        for path in sorted((root / name).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            lines = text.count("\n")
            if lines > LONGEST_FILE:
                yield f"{path.relative_to(root)} has {lines} lines; split it, {LONGEST_FILE} is the most"
            if name in {"platform", "inference_worker", "admin_ui", "infra"} and not documented(text):
                yield f"{path.relative_to(root)} has no docstring saying what it is for"


def platform_folder(root: Path) -> Iterator[str]:
    """`platform/` must stay a plain folder: as a package it would hide the standard library's module `platform`."""
    folder = root / "platform"
    if not (folder / "kasbah" / "__init__.py").is_file():
        yield "platform/kasbah/__init__.py is missing"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in {"kasbah", "__pycache__"}:
            yield f"platform/{path.name} must not be there: platform/ is a source root and holds the folder kasbah only"


def documented(text: str) -> bool:
    """Whether a module that has code has a docstring."""
    module = ast.parse(text)
    return not module.body or ast.get_docstring(module) is not None


def main() -> int:
    """Print what is wrong; 1 when anything is."""
    found = list(problems(REPOSITORY))
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
