"""`python -m benchmarks.engine`: tokens a second of real vLLM with the demo model, alone and through Kasbah.

Both ask the same engine process: directly on its Unix socket, and through the whole platform. Rounds alternate.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import uvloop

from benchmarks import load, subjects, table
from benchmarks.subjects import Subject
from infra.local import model
from infra.local.home import REPOSITORY

QUESTION = "Write about the history of paper, number {number}."


def body(subject: Subject, tokens: int, number: int) -> bytes:
    """A stream of exactly `tokens` tokens; the number keeps the engine's prefix cache from answering alike."""
    message = {"role": "user", "content": QUESTION.format(number=number)}
    value = {"model": subject.model, "messages": [message], "max_tokens": tokens, "temperature": 0, "stream": True}
    return json.dumps(value | {"stop": ["\u0000"]}).encode()


def engine_socket(worker: int) -> str:
    """The socket of the engine that this worker keeps."""
    for process in psutil.Process(worker).children(recursive=True):
        found = re.search(r"--uds[= ](\S+)", " ".join(process.cmdline()))
        if found:
            return found[1]
    raise SystemExit("the worker has no engine with a Unix socket")


def one_round(subject: Subject, level: int, tokens: int, number: int) -> load.Result:
    """`level` streams at once, two for each connection."""
    return uvloop.run(
        load.run(
            f"{subject.url}/chat/completions",
            body(subject, tokens, number),
            key=subject.key,
            concurrency=level,
            requests=level * 2,
            uds=subject.uds,
            limit=600,
        )
    )


def main() -> None:
    """Start, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 16], help="streams at once")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    options = parser.parse_args()
    python = REPOSITORY / ".venv-engine" / "bin" / "python"
    subjects.PATIENCE = 300.0
    with tempfile.TemporaryDirectory(prefix="ksb-bench-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        home.chmod(0o711)
        build = functools.partial(model.build, python)
        through = stack.enter_context(subjects.kasbah(home, python, build))
        alone = replace(through, name="engine alone", url="http://engine/v1", uds=engine_socket(through.pids["worker"]))
        rows = []
        for level in options.levels:
            rates: dict[str, list[float]] = {"engine alone": [], "kasbah": []}
            first: dict[str, list[float]] = {"engine alone": [], "kasbah": []}
            for number in range(options.rounds + 1):
                for subject in (alone, through):
                    result = one_round(subject, level, options.tokens, number)
                    if number == 0:
                        continue  # warms the engine
                    rates[subject.name].append(result.tokens / result.wall)
                    first[subject.name].extend(result.first)
            middle = {name: statistics.median(values) for name, values in rates.items()}
            added = load.quantile(first["kasbah"], 0.5) - load.quantile(first["engine alone"], 0.5)
            kept = middle["kasbah"] / middle["engine alone"] * 100
            row = [level, f"{middle['engine alone']:.1f}", f"{middle['kasbah']:.1f}", f"{kept:.1f} %"]
            rows.append([*row, f"{added * 1000:.0f}"])
        head = ["streams at once", "engine alone", "kasbah", "kept", "added to first token p50, ms"]
        table.show(f"chunks/s, answers of {options.tokens} tokens", head, rows)


if __name__ == "__main__":
    main()
