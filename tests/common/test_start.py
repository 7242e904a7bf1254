"""Every process of the platform refuses to start in a role that row-level security does not hold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from django.core import checks

from infra.local.postgres import Postgres

CELERY = ["-m", "celery", "-A", "kasbah.config.celery"]
PROCESSES = {
    "web": ["-m", "uvicorn", "kasbah.config.asgi:application", "--port", "0"],
    "serve": ["manage.py", "serve", "--port", "0"],
    "worker": [*CELERY, "worker", "--pool", "solo", "--loglevel", "INFO"],
    "beat": [*CELERY, "beat", "--pidfile=", "--loglevel", "INFO", "--schedule"],
}
READY = {"web": "Uvicorn running", "serve": "Serving on", "worker": " ready.", "beat": "beat: Starting"}
SAID = {"owner_url": "owns the table", "superuser_url": "superuser"}


def command(process: str, folder: Path) -> list[str]:
    return [sys.executable, *PROCESSES[process], *([str(folder / "beat")] if process == "beat" else [])]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("role", SAID)
def test_no_process_starts_as_owner_or_superuser(
    process: str, role: str, postgres_server: Postgres, valkey_server: Any, tmp_path: Path
) -> None:
    ended = subprocess.run(
        command(process, tmp_path),
        env={**os.environ, "KASBAH_DATABASE_URL": getattr(postgres_server, role)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert SAID[role] in ended.stderr
    assert "KASBAH_DATABASE_URL" in ended.stderr  # the way out


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_starts_as_the_application(
    process: str, postgres_server: Postgres, valkey_server: Any, tmp_path: Path
) -> None:
    """The control: what refuses above does not refuse everything."""
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(command(process, tmp_path), env={**os.environ}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while READY[process] not in (text := (tmp_path / "log").read_text()):
            assert started.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
    finally:
        started.terminate()
        started.wait(30)


def test_a_command_without_settings_says_in_a_line_which_is_missing() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("KASBAH_")}
    command = [sys.executable, "manage.py", "auditlog", "status"]
    ended = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("KASBAH_SECRET_KEY is not set.")


def test_django_knows_the_check() -> None:
    assert any("tenant_tables_are_forced" in repr(check) for check in checks.registry.registry.get_checks())
