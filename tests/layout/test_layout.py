"""The rules of the source tree (decision 0001) hold, and a breach is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local import layout


def test_the_tree_keeps_its_rules() -> None:
    assert list(layout.problems(layout.REPOSITORY)) == []


@pytest.mark.parametrize("stray", ["__init__.py", "conftest.py", "loose.py", "other"])
def test_a_stray_in_platform_is_seen(tmp_path: Path, stray: str) -> None:
    (tmp_path / "platform/kasbah").mkdir(parents=True)
    (tmp_path / "platform/kasbah/__init__.py").touch()
    assert list(layout.platform_folder(tmp_path)) == []
    (tmp_path / "platform" / stray).touch()
    (problem,) = layout.platform_folder(tmp_path)
    assert f"platform/{stray} " in problem


def test_a_file_that_grew_too_long_is_seen(tmp_path: Path) -> None:
    (tmp_path / "platform/kasbah").mkdir(parents=True)
    (tmp_path / "platform/kasbah/__init__.py").write_text('"""Documented."""\n' + "x = 1\n" * layout.LONGEST_FILE)
    (problem,) = layout.problems(tmp_path)
    assert "split it" in problem
