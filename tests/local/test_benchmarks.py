"""The gateway's benchmark still starts the whole installation and prints its tables; its figures are not judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_gateways_benchmark_runs_without_an_error() -> None:
    command = [sys.executable, "-m", "benchmarks.gateway", "--no-litellm", "--rounds", "1", "--scale", "0.02"]
    done = subprocess.run(
        [*command, "--levels", "2"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row for row in done.stdout.splitlines() if row.startswith("| 2 ")]
    assert len(rows) >= 3
    assert all("nan" not in row for row in rows)
