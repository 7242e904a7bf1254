"""The demo model answers as the dense model it is made of, with real routing. Runs the real weights."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.local import model

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = REPOSITORY / ".venv-engine" / "bin" / "python"
MODELS = REPOSITORY / "build" / "models"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def built() -> model.BuiltModel:
    return model.build(ENGINE_PYTHON, MODELS)


@pytest.fixture(scope="module")
def comparison(built: model.BuiltModel) -> dict[str, Any]:
    program = Path(__file__).with_name("compare_demo_model.py")
    result = subprocess.run(
        [ENGINE_PYTHON, program, built.folder],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_greedy_answers_equal_the_dense_models(comparison: dict[str, Any]) -> None:
    assert comparison["dense"]
    assert comparison["sparse"]
    assert len(comparison["cases"]) >= 4
    for case in comparison["cases"]:
        assert case["equal"], case["prompt"]
        assert case["tokens"] >= 64
        assert case["largest_logit_difference"] < 1e-3
    assert "Paris" in comparison["cases"][0]["answer"]


def test_the_comparison_sees_a_different_model(comparison: dict[str, Any]) -> None:
    """The negative control: with other experts chosen to differ, the same comparison must fail."""
    assert comparison["control_largest_logit_difference"] > 1e-1
    assert not comparison["control_equal"]


def test_every_expert_of_every_layer_is_used(comparison: dict[str, Any]) -> None:
    used = comparison["experts_used"]
    assert len(used) == 30
    assert all(len(layer) == 4 and min(layer) > 0 for layer in used)


def test_the_tokenizer_is_smollm2s(comparison: dict[str, Any]) -> None:
    assert comparison["digits"] == ["a", "2", "0", "2", "4"]
    assert comparison["stop_token"] == "<|im_end|>"
    assert all(case["round_trip"] for case in comparison["cases"])


def test_two_builds_are_the_same_bytes_and_a_present_one_is_kept(built: model.BuiltModel, tmp_path: Path) -> None:
    again = model.build(ENGINE_PYTHON, tmp_path)
    assert again.digest == built.digest
    weights = again.folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    lines: list[str] = []
    assert model.build(ENGINE_PYTHON, tmp_path, lines.append) == again
    assert weights.stat().st_mtime_ns == before
    assert lines == ["the model is there already"]
    (again.folder / "config.json").unlink()
    assert model.build(ENGINE_PYTHON, tmp_path).digest == built.digest
    assert (again.folder / "config.json").is_file()
