"""`python -m benchmarks.decide`: what one decision costs, in microseconds, beside the goal of 50 at 1,000 rules.

Policies are of the worst shape: every rule is about the class, the model and the tags that are asked for. The minimum
of the rounds is printed, since whatever else the machine does only adds to it. `first of a minute` is the one decision
in each minute that has to look at the windows again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from benchmarks.table import show
from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.decision import Question, decide
from kasbah.residency.places import SiteFact

GOAL = 50.0  # microseconds at 1,000 rules
COUNTS = (1, 100, 1000)
NOON = 1_767_610_800  # a Monday, 2026-01-05T11:00:00Z
SITES = tuple(
    SiteFact(UUID(int=number), slug, code)
    for number, (slug, code) in enumerate([("paris", "FR"), ("lyon", "FR"), ("rabat", "MA"), ("tokyo", "JP")])
)
SHAPES = ("plain", "with tags", "with windows", "with a baseline", "with all of it")


def policy(rules: int, shape: str) -> CompiledPolicy:
    """A policy of so many rules, every other one denying."""
    document = {"version": 1, "rules": [_rule(number, shape) for number in range(rules)]}
    bounded = shape in {"with a baseline", "with all of it"}
    return compile_policy(document, version=1, baseline=compile_policy(document, version=1) if bounded else None)


def _rule(number: int, shape: str) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "id": f"rule-{number}",
        "effect": "deny" if number % 2 else "allow",
        "data_classes": ["internal"],
        "models": ["*"],
        "sites": ["*"],
        "purposes": [f"p{number}"],
    }
    if shape in {"with tags", "with all of it"}:
        rule["tags"] = ["*"]
    if shape in {"with windows", "with all of it"}:
        ends = f"{13 + number % 11}:{number % 60:02}"
        rule["windows"] = [{"days": ["mon"], "from": "08:00", "to": ends, "zone": "Europe/Paris"}]
    return rule


def question(rules: int, shape: str, at: int = NOON) -> Question:
    """What the last rule that allows is about, at four sites."""
    tags = ("personal", "health") if shape in {"with tags", "with all of it"} else ()
    purpose = f"p{(rules - 1) // 2 * 2}"
    return Question(
        tenant=UUID(int=1), data_class="internal", model="m", sites=SITES, tags=tags, purpose=purpose, at=at
    )


def microseconds(run: Callable[[], object], rounds: int, calls: int = 100) -> float:
    """The cost of one call, in the best of the rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            run()
        best = min(best, (time.perf_counter() - started) / calls)
    return best * 1e6


def measure(rules: int, shape: str, rounds: int) -> tuple[float, float]:
    """Microseconds of a decision, and of the first one of a minute."""
    compiled, asked = policy(rules, shape), question(rules, shape)
    if not decide(compiled, asked).allowed:
        raise AssertionError("the benchmark's question must reach its rule")
    later = iter(range(NOON + 60, NOON + 60 * (100 * rounds + 2), 60))
    usual = microseconds(lambda: decide(compiled, asked), rounds)
    first = microseconds(lambda: decide(compiled, question(rules, shape, next(later))), rounds, calls=10)
    return usual, first


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decide", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="of 100 decisions each")
    options = parser.parse_args()
    rows = []
    for shape in SHAPES:
        for rules in COUNTS:
            usual, first = measure(rules, shape, options.rounds)
            rows.append([shape, rules, f"{usual:.1f}", f"{usual / GOAL:.2f}", f"{first:.1f}"])
    show(
        f"a decision over {len(SITES)} sites, microseconds",
        ["rules are", "rules", "decision", f"of the goal ({GOAL:.0f})", "first of a minute"],
        rows,
    )


if __name__ == "__main__":
    main()
