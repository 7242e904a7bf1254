"""`manage.py serve` in a process of its own: it refuses what it must, answers, and ends in time."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import factories

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "manage.py"), "serve", *arguments]


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process, once it listens; it must end by itself within its grace."""
    process = subprocess.Popen(command("--port", "0", *arguments), stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next((m[1] for line in lines if (m := re.search(r"Serving on (http://\S+)", line))), None)
        assert address, "it ended before it listened"
        yield address, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.django_db(transaction=True)
def test_it_answers_both_sides_and_ends_on_sigterm(valkey_server):
    home = factories.household(scopes=("inference", "management:read"))
    with served() as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        key = {"Authorization": f"Bearer {home.key_text}"}
        assert client.get("/api/me", headers=key).json()["kind"] == "api_key"
        assert client.get(f"/api/tenants/{home.tenant.slug}/projects/", headers=key).status_code == 200
        page = client.get("/api/docs/", headers={"Accept": "text/html"})
        assert page.status_code == 200
        script = re.findall(r'src="(/static/[^"]+\.js)"', page.text)[0]
        assert client.get(script).status_code == 200
        assert client.get("/v1/models", headers=key).json()["object"] == "list"
        assert "server" not in page.headers
        for body in (b"x" * (5 * 2**20), iter([b"x" * 2**20] * 5)):  # announced, and in chunks
            answer = client.post("/api/session/", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
            assert answer.headers["x-request-id"]


def refused(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        command("--port", "0", *arguments),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.django_db(transaction=True)
def test_it_refuses_the_owner_of_the_tables(owner_url):
    assert "KASBAH_DATABASE_URL" in refused(KASBAH_DATABASE_URL=owner_url)


@pytest.mark.django_db(transaction=True)
def test_it_says_what_to_do_without_migrations_or_database(postgres_server, tmp_path):
    empty = re.sub(r"/[^/?]+\?", "/template1?", postgres_server.app_url)
    assert "manage.py migrate" in refused(KASBAH_DATABASE_URL=empty)
    nowhere = f"postgresql://nobody@/kasbah?host={tmp_path}"
    assert "cannot be reached" in refused(KASBAH_DATABASE_URL=nowhere)


@pytest.mark.django_db(transaction=True)
def test_it_names_a_port_that_is_taken(postgres_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused("--port", port)
    assert f"port {port}" in message
    assert "--port" in message
