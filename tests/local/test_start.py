"""What stands before a start: home, lock, checks, command line, layout."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from infra.local import __main__ as command_line
from infra.local import demo, layout, problems, state
from infra.local.home import MARK, Home, home
from infra.local.problems import Problem

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.local", *arguments],
        env={**os.environ, "KASBAH_HOME": str(folder)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_folder_is_the_one_named_or_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KASBAH_HOME", str(tmp_path / "x"))
    assert home().path == tmp_path / "x"
    monkeypatch.delenv("KASBAH_HOME")
    assert home().path == REPOSITORY / ".kasbah"


def test_two_at_once_the_second_says_so_and_clean_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Home(tmp_path / "home")
    place.create()
    assert place.running() is None
    with place.lock("start"):
        assert place.running() == os.getpid()
        with pytest.raises(Problem, match=rf"already runs from .*pid {os.getpid()}"), place.lock("start a second time"):
            pass
        refused = run("clean", folder=place.path)
        assert refused.returncode == 1
        assert f"pid {os.getpid()}" in refused.stderr
        assert "Traceback" not in refused.stderr
        monkeypatch.setenv("KASBAH_HOME", str(place.path))
        with pytest.raises(Problem, match=f"pid {os.getpid()}"):
            demo.main(bind="127.0.0.1:8080", once=True)
        shown = run("status", folder=place.path)
        assert (shown.returncode, f"pid {os.getpid()}" in shown.stdout) == (0, True)
    assert place.running() is None
    assert run("status", folder=place.path).returncode == 3
    assert run("clean", folder=place.path).returncode == 0
    assert not place.path.exists()
    assert run("clean", folder=place.path).returncode == 0


def test_the_lock_ends_with_its_holder_even_by_kill_9(tmp_path: Path) -> None:
    place = Home(tmp_path)
    place.create()
    program = (
        "import sys, time; from pathlib import Path; from infra.local.home import Home\n"
        "with Home(Path(sys.argv[1])).lock('x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert place.running() == holder.pid
        holder.kill()
    with place.lock("start"):
        pass


def test_folders_of_others_are_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Problem, match="not a folder of Kasbah's"):
        Home(tmp_path).create()
    with pytest.raises(Problem, match=MARK):
        Home(tmp_path).remove()
    assert (tmp_path / "thesis.txt").exists()
    assert state.resident_mib(os.getpid()) > 10


def test_a_port_in_use_names_who_uses_it_and_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Problem) as caught:
            problems.check_port("127.0.0.1", port)
    assert f"pid {os.getpid()}" in str(caught.value)
    assert f"BIND=127.0.0.1:{port + 1}" in str(caught.value)
    problems.check_port("127.0.0.1", port)
    with pytest.raises(Problem, match="not an address of this machine"):
        problems.check_port("192.0.2.1", port)


def test_a_full_disk_and_too_little_memory_say_how_much_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(problems.shutil, "disk_usage", lambda place: usage(0, 0, 10 * problems.MIB))
    with pytest.raises(Problem, match="has 10 MiB free, and the demo needs 700 MiB"):
        problems.check_disk(tmp_path / "not" / "yet", 700, "the demo")
    problems.check_disk(tmp_path, 10, "the demo")
    available = problems.available_memory_mib()
    assert available > 0
    with pytest.raises(Problem, match=f"needs {available + 10**6} MiB"):
        problems.check_memory(available + 10**6)
    problems.check_memory(1)


def test_a_control_groups_limit_counts_and_its_file_cache_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "CGROUP", tmp_path)
    whole = problems.available_memory_mib()
    (tmp_path / "memory.max").write_text(f"{100 * problems.MIB}\n")
    (tmp_path / "memory.current").write_text(f"{80 * problems.MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {30 * problems.MIB}\n")
    assert problems.available_memory_mib() == 50
    (tmp_path / "memory.max").write_text("max\n")
    assert abs(problems.available_memory_mib() - whole) < 2000


def test_a_wrong_python_is_told_which_one_and_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line.ensure_version()
    monkeypatch.setattr(command_line, "PYTHON", (3, 1))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit) as ended:
        command_line.ensure_version()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "needs Python 3.1;" in message
    assert "PYTHON=/path/to/python3.1" in message


def test_a_working_python_on_the_path_is_taken_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    for name, status in (("python3.1", 0), ("python3.2", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command_line.os, "execv", lambda path, argv: started.append(argv))
    monkeypatch.setattr(command_line, "PYTHON", (3, 1))
    with pytest.raises(SystemExit):  # as execv returned, which it does not outside of tests
        command_line.ensure_version()
    assert started[0][:3] == [str(tmp_path / "python3.1"), "-m", "infra.local"]
    started.clear()
    monkeypatch.setattr(command_line, "PYTHON", (3, 2))  # a pyenv shim of a version that is not active fails like this
    with pytest.raises(SystemExit):
        command_line.ensure_version()
    assert started == []


def test_a_python_that_cannot_read_our_programs_is_told_by_make(tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho "SyntaxError" >&2\nexit 1\n')
    old.chmod(0o755)
    for python in (str(old), "/nonexistent/python"):
        made = subprocess.run(
            ["/usr/bin/env", "make", "demo", f"PYTHON={python}"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 2
        assert "needs Python 3.11" in made.stderr
        assert "PYTHON=/path/to/python3.11" in made.stderr
        assert "SyntaxError" not in made.stderr


@pytest.mark.parametrize("command", ["setup", "demo", "status", "clean", "layout"])
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    shown = run(command, "--help", folder=tmp_path)
    assert shown.returncode == 0
    assert command in shown.stdout


def test_the_address_to_listen_on_is_checked() -> None:
    assert problems.parse_bind("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert problems.parse_bind("[::1]:8080") == ("::1", 8080)
    for wrong in ("8080", "host:", "host:x", "host:0", "host:70000", ":80"):
        with pytest.raises(Problem, match=r"write it like 127\.0\.0\.1:8080"):
            problems.parse_bind(wrong)


def tree(root: Path) -> Path:
    (root / "platform" / "kasbah").mkdir(parents=True)
    (root / "platform" / "kasbah" / "__init__.py").write_text('"""Kasbah."""\n')
    return root


def test_the_layout_of_this_tree_is_right() -> None:
    assert list(layout.problems(REPOSITORY)) == []


@pytest.mark.parametrize("name", ["__init__.py", "conftest.py", "loose.py", "other/module.py"])
def test_platform_must_stay_a_source_root(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path)
    assert list(layout.problems(root)) == []
    path = root / "platform" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('"""Something."""\n')
    assert any(f"platform/{Path(name).parts[0]}" in line for line in layout.problems(root))


def test_long_and_undocumented_files_are_found(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "platform" / "kasbah" / "long.py").write_text('"""Long."""\n' + "x = 1\n" * 500)
    (root / "platform" / "kasbah" / "mute.py").write_text("x = 1\n")
    found = list(layout.problems(root))
    assert len(found) == 2
    assert "501 lines" in found[0]
    assert "no docstring" in found[1]
