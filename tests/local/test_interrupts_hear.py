"""Ctrl-C and SIGTERM are heard, whatever was inherited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from infra.local import demo, interrupts

ROOT = Path(__file__).resolve().parents[2]
HEARING = """
import time
from infra.local import interrupts
try:
    with interrupts.heard():
        print("up", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("ended", flush=True)
"""
DEAF = HEARING.replace("interrupts.heard()", "__import__('contextlib').nullcontext()")


def ignored() -> None:
    """As a shell without job control starts a background job."""
    for number in interrupts.ENDING:
        signal.signal(number, signal.SIG_IGN)


def blocked() -> None:
    """As a careless supervisor starts a child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.ENDING)


def started(program: str, inherited: Callable[[], None]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=inherited,  # noqa: PLW1509 - nothing else runs in this test
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", interrupts.ENDING)
@pytest.mark.parametrize("inherited", [ignored, blocked])
def test_it_ends_whatever_was_inherited(inherited: Callable[[], None], number: signal.Signals) -> None:
    process = started(HEARING, inherited)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "ended\n"
    assert process.returncode == 0


@pytest.mark.parametrize("inherited", [ignored, blocked])
def test_the_control_never_hears_it(inherited: Callable[[], None]) -> None:
    process = started(DEAF, inherited)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    process.communicate()


def test_afterwards_all_is_as_it_was() -> None:
    before = [signal.getsignal(number) for number in (*interrupts.ENDING, signal.SIGHUP)]
    with interrupts.heard():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (*interrupts.ENDING, signal.SIGHUP)] == before


def test_tests_hear_interrupts_and_so_do_the_processes_that_they_start() -> None:
    asked = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_bar_goes_on_for_as_long_as_the_step_takes() -> None:
    shown = [demo.progress(seconds, 60.0) for seconds in range(1, 3600)]
    assert all(before < after < 1 for before, after in pairwise(shown))
    assert demo.progress(30.0, 60.0) == pytest.approx(0.45)
    assert demo.progress(1.0, 0.0) < 1


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [(), ("-n", "2")])
def test_the_last_lines_say_what_was_left_out_for_want_of_a_program(parallel: tuple[str, ...], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "KASBAH_TEST_RSYSLOG"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, "tests/common/test_ids.py",
         "tests/audit/test_rsyslog.py"],
        cwd=ROOT, env=environment | {"KASBAH_TEST_LEFT_OUT": str(tmp_path / "left")}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    assert "tests with rsyslog; KASBAH_TEST_RSYSLOG names no rsyslogd." in ended.stdout
    assert "rsyslog" in (tmp_path / "left").read_text(encoding="utf-8")


def test_make_test_prints_them_at_its_end() -> None:
    target = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest:")[2].partition("\n\n")[0]
    assert target.index("KASBAH_TEST_LEFT_OUT=") < target.index("pytest")
    assert target.rindex("pytest") < target.index("cat $$left") < target.index("exit $$status")
