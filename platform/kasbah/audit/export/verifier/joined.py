"""verify.py: the parts of the verifier joined into one file that needs the standard library alone.

An auditor copies one file and reads it from top to bottom; here nobody reads a file of a thousand lines.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib import resources

PACKAGE = "kasbah.audit.export.verifier"
# Each after those that it uses; the last one's docstring is the program's.
PARTS = (
    "failure",
    "documents",
    "ed25519",
    "notes",
    "succession",
    "tokens",
    "tree",
    "zipreader",
    "archive",
    "gaps",
    "parquet",
    "ocsf",
    "tally",
    "views",
    "events",
    "proofs",
    "log",
    "content",
    "dossier",
    "kept",
    "promises",
    "given",
    "program",
)


@cache
def program() -> str:
    """The text of verify.py."""
    modules = [_Module(name) for name in PARTS]
    _same_names(modules)
    imports = sorted({line for module in modules for line in module.imports}, key=lambda line: (line[:4], line))
    head = f'"""{modules[-1].docstring}"""\n\nfrom __future__ import annotations\n\n' + "\n".join(imports)
    bodies = [f"# --- {module.heading} ---\n\n\n{module.body}" for module in modules]
    return "\n\n\n".join([head, *bodies]) + "\n"


class _Module:
    """One part: what it imports of the standard library, and what it defines."""

    def __init__(self, name: str) -> None:
        text = resources.files(PACKAGE).joinpath(f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.docstring = ast.get_docstring(tree, clean=False) or ""
        self.heading = self.docstring.split("\n", 1)[0].rstrip(".")
        self.imports: list[str] = []
        self.names: list[str] = []
        last = tree.body[0]
        for node in tree.body[1:]:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports += _standard(node)
                last = node
            else:
                self.names += _names(node)
        self.body = "\n".join(text.split("\n")[last.end_lineno :]).strip("\n")


def _standard(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """One line for each name, so that parts may import the same."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            yield f"import {alias.name}"
        elif node.module != "__future__" and not (node.module or "").startswith(PACKAGE):
            yield f"from {node.module} import {alias.name}"


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def _same_names(modules: list[_Module]) -> None:
    """In one file a name means one thing. Raises ValueError."""
    seen: dict[str, str] = {}
    for module in modules:
        for name in module.names:
            if name in seen:
                raise ValueError(f"{name} is defined in two parts of the verifier: {seen[name]}, {module.heading}")
            seen[name] = module.heading
