"""`python -m benchmarks.gateway`: requests and streams a second, time to the first token, CPU and memory, as ratios.

Rounds are interleaved (engine, Kasbah, LiteLLM, engine, ...) so that a machine that slows down slows them all; the
median of the rounds is printed. LiteLLM takes part when `.venv-bench` has it: `make bench-setup`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import uvloop

from benchmarks import accounting, load, subjects, table
from benchmarks.subjects import Subject
from tests.fakes import engine as fake

CHUNKS = 64
PACE = 0.02  # seconds between the tokens of a paced stream

Figures = dict[tuple[str, str, int], list[load.Result]]
Costs = dict[tuple[str, str, int], list[float]]


def body(subject: Subject, kind: str) -> bytes:
    """The request of one kind: "request", "stream" or "paced"."""
    pace = f" delay={PACE}" if kind == "paced" else ""
    tokens = CHUNKS if kind != "request" else 8
    message = {"role": "user", "content": f"[[tokens={tokens}{pace}]] A question of ordinary length, as people ask it."}
    value = {"model": subject.model, "messages": [message], "max_tokens": tokens, "stream": kind != "request"}
    return json.dumps(value).encode()


def one_round(subject: Subject, kind: str, concurrency: int, count: int) -> tuple[load.Result, float]:
    """A round, and the CPU milliseconds an answer that the subject's processes used."""
    before = accounting.cpu_seconds(*subject.pids.values())
    result = uvloop.run(
        load.run(
            f"{subject.url}/chat/completions",
            body(subject, kind),
            key=subject.key,
            concurrency=concurrency,
            requests=count,
            uds=subject.uds,
        )
    )
    used = accounting.cpu_seconds(*subject.pids.values()) - before
    return result, used * 1000 / max(result.requests, 1)


def counts(kind: str, concurrency: int, subject: Subject, scale: float) -> int:
    """How many requests a round has: enough to be steady, few enough to end within seconds."""
    slow = subject.name == "litellm"
    base = {"request": 40 if slow else 400, "stream": 12 if slow else 100, "paced": 4}[kind]
    return max(concurrency * 2, int(base * scale * (1 if concurrency == 1 else 3)))


def measure(rivals: list[Subject], rounds: int, levels: list[int], scale: float) -> tuple[Figures, Costs]:
    """All rounds, interleaved."""
    figures: Figures = defaultdict(list)
    costs: Costs = defaultdict(list)
    for number in range(rounds + 1):
        for kind in ("request", "stream", "paced"):
            for level in levels:
                for subject in rivals:
                    result, cost = one_round(subject, kind, level, counts(kind, level, subject, scale))
                    if number == 0:
                        continue  # warms caches and connections
                    figures[subject.name, kind, level].append(result)
                    costs[subject.name, kind, level].append(cost)
        print(f"round {number}/{rounds} done", flush=True)
    return figures, costs


def median(results: list[load.Result]) -> float:
    """The median rate of the rounds."""
    return statistics.median(result.rate for result in results)


def report(rivals: list[Subject], figures: Figures, costs: Costs, levels: list[int]) -> None:
    """Print the tables."""
    names = [subject.name for subject in rivals]
    show_rates(names, figures, costs, levels)
    show_first_tokens(names, figures, levels)
    rows = [[s.name, part, f"{accounting.memory_mb(pid):.0f}"] for s in rivals for part, pid in s.pids.items()]
    table.show("memory, MB (proportional set size)", ["subject", "process", "MB"], rows)


def show_rates(names: list[str], figures: Figures, costs: Costs, levels: list[int]) -> None:
    """Answers a second and what one costs in CPU time, for requests and for streams."""
    for kind, unit in (("request", "requests/s"), ("stream", f"streams/s ({CHUNKS} chunks)")):
        rows = []
        for level in levels:
            rates = {name: median(figures[name, kind, level]) for name in names}
            ratio = f"{rates['kasbah'] / rates['litellm']:.1f}x" if rates.get("litellm") else "-"
            cost = {name: statistics.median(costs[name, kind, level]) for name in names}
            errors = sum(result.errors for result in figures["kasbah", kind, level])
            rows.append(
                [
                    level,
                    *[f"{rates[name]:.0f}" for name in names],
                    ratio,
                    *[f"{cost[name]:.2f}" for name in names],
                    errors,
                ]
            )
        head = ["at once", *names, "kasbah/litellm", *[f"CPU ms {name}" for name in names], "errors"]
        table.show(unit, head, rows)


def show_first_tokens(names: list[str], figures: Figures, levels: list[int]) -> None:
    """What is added to the engine's own time to the first token, and how much of a paced stream's rate is kept."""
    rows = []
    for level in levels:
        first = {n: [t for r in figures[n, "paced", level] for t in r.first] for n in names}
        base = {q: load.quantile(first["engine alone"], q) for q in (0.5, 0.99)}
        added = [f"{(load.quantile(first[name], q) - base[q]) * 1000:.1f}" for name in names[1:] for q in (0.5, 0.99)]
        kept = median(figures["kasbah", "paced", level]) / median(figures["engine alone", "paced", level])
        rows.append([level, *added, f"{kept * 100:.1f} %"])
    head = ["at once", *[f"{name} p{q}" for name in names[1:] for q in (50, 99)], "rate kept by kasbah"]
    table.show(f"time to first token added, ms, streams paced at {1 / PACE:.0f} tokens/s", head, rows)


def main() -> None:
    """Start the subjects, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 16, 64], help="requests at once")
    parser.add_argument("--scale", type=float, default=1.0, help="how many requests a round has, as a factor")
    parser.add_argument("--no-litellm", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ksb-bench-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        home.chmod(0o711)  # PostgreSQL runs as another user when we are root
        alone = stack.enter_context(subjects.engine_alone(home, {}))
        program = fake.write_program(home / "engine", {})
        rivals = [alone, stack.enter_context(subjects.kasbah(home, program))]
        if subjects.LITELLM.exists() and not options.no_litellm:
            url = stack.enter_context(subjects.engine_on_loopback(home, str(alone.uds)))
            rivals.append(stack.enter_context(subjects.litellm(home, url)))
        else:
            print("LiteLLM is not installed (make bench-setup) or was left out; its columns are missing.")
        figures, costs = measure(rivals, options.rounds, options.levels, options.scale)
        report(rivals, figures, costs, options.levels)


if __name__ == "__main__":
    main()
