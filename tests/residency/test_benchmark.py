"""The benchmark of the decision runs, on policies that are what it says they are."""

from __future__ import annotations

import pytest

from benchmarks import decide


@pytest.mark.parametrize("shape", decide.SHAPES)
def test_every_shape_is_measured(shape: str) -> None:
    usual, first = decide.measure(10, shape, rounds=1)
    assert 0 < usual < 10_000
    assert 0 < first < 100_000
    compiled = decide.policy(10, shape)
    assert bool(list(compiled.clock.spans)) == (shape in {"with windows", "with all of it"})
    assert (compiled.baseline is not None) == (shape in {"with a baseline", "with all of it"})


def test_the_table_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(decide, "COUNTS", (1, 10))
    monkeypatch.setattr("sys.argv", ["decide", "--rounds", "1"])
    decide.main()
    printed = capsys.readouterr().out
    assert "of the goal (50)" in printed
    assert printed.count("| with windows") == 2
