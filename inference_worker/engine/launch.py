"""Starts the engine behind a guard with an empty list, so that it may open no connection beyond this machine.

    python launch.py -m vllm.entrypoints.openai.api_server ARG...

Run by the engine's own interpreter, in whose environment nothing of Kasbah is installed: the guard
(contract/egress.py) is loaded by its path. Loopback stays open, because torch and ZeroMQ join an engine's processes
over it. Python processes that the engine starts get the guard through PYTHONPATH, which names a folder with a
`sitecustomize` (hook/): Python imports that before anything else. What is refused is written, a destination a line, to
the file that ENGINE_EGRESS_JOURNAL names, where the worker reads it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

GUARD = Path(__file__).parents[1] / "contract" / "egress.py"
HOOK = Path(__file__).with_name("hook")
NAME = "kasbah_egress"
JOURNAL = "ENGINE_EGRESS_JOURNAL"
LARGEST = 64 * 1024  # bytes of the journal: what floods it is known by then


def guard() -> None:
    """Install the guard in this process, once."""
    if NAME in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(NAME, GUARD)
    if spec is None or spec.loader is None:
        raise ImportError(f"{GUARD} cannot be loaded")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    way_out = "It answers on its Unix socket and may reach this machine's loopback alone; no setting adds to that."
    module.install(module.Guard("engine", loopback=True, way_out=way_out, told=_note))


def _note(destination: str) -> None:
    """Append to the journal; a full disk loses lines, never the refusal."""
    path = os.environ.get(JOURNAL)
    if path is not None:
        with contextlib.suppress(OSError), Path(path).open("ab", buffering=0) as journal:
            if journal.tell() < LARGEST:
                journal.write(f"{destination}\n".encode())


def main(arguments: list[str]) -> None:
    """Become `python -m MODULE ARG...`."""
    flag, module, *_ = arguments
    if flag != "-m":
        raise SystemExit("usage: launch.py -m MODULE ARG...")
    folder = str(Path(__file__).parent)
    sys.path[:] = [entry for entry in sys.path if entry != folder]  # else its modules would stand before the engine's
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOOK), before)))
    guard()
    sys.argv = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
