"""A new site's broker and store are tried, and what was found is said in words that name no address."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import call_command

from infra.local.valkey import Valkey, valkey
from kasbah.residency.services import create_site
from kasbah.residency.services.reachability import TIMEOUT, try_site
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="ksb-") as home, valkey(Path(home), "site", aof=False) as running:
        yield running


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://:s3cret@127.0.0.1:{listening.getsockname()[1]}/0"


def tried(broker: str, store: str = "") -> dict[str, str]:
    return try_site(create_site(factories.SYSTEM, factories.slug("site"), "S", "FR", broker, store_url=store))


def test_what_answers_is_ok(server: Valkey) -> None:
    assert tried(server.url) == {"broker": "ok", "store": "ok"}


def test_what_does_not_is_named_within_seconds(server: Valkey, silent: str) -> None:
    began = time.monotonic()
    assert tried("redis://127.0.0.1:1/0")["store"] == "cannot be reached (ConnectionRefusedError)"
    assert tried(server.url, silent) == {"broker": "ok", "store": "cannot be reached (TimeoutError)"}
    broker = tried("amqp://u:s3cret@127.0.0.1:1//", server.url)
    assert broker["broker"].startswith("cannot be reached (")
    assert "s3cret" not in str(broker)
    assert time.monotonic() - began < TIMEOUT * 5


def test_store_that_refuses_writes_or_the_password_is_named(server: Valkey) -> None:
    assert "refused" in tried(f"redis://nobody:wrong@{server.host}:{server.port}/0")["store"]
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        try:
            assert "refuses to be written to" in tried(server.url)["store"]
            assert client.ping()  # the control: it answers
        finally:
            client.config_set("maxmemory", "0")


def test_command_says_what_it_found(server: Valkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broker"
    file.write_text(server.url)
    call_command(
        "createsite", "--slug", "lyon", "--name", "Lyon", "--jurisdiction", "FR", "--broker-file", str(file), "--json"
    )
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (made["slug"], made["broker"], made["store"]) == ("lyon", "ok", "ok")
