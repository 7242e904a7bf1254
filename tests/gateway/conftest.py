"""Fixtures of the gateway's tests: the platform of one module, a tenant of one test."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # conftest files are read before Django is set up
    from tests.factories import Household
    from tests.gateway.stack import Stack


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, postgres_server: Any, valkey_server: Any, django_db_blocker: Any
) -> Iterator[Stack]:
    """One site, `north`, with a worker; a short hold so that waiting streams are seen to wait.

    What the module says in SETTINGS is set for every process of the platform.
    """
    from tests.conftest import empty_tables
    from tests.gateway import stack as stacks

    home = Path(tempfile.mkdtemp(prefix="ksb-gw-"))
    try:
        with (
            django_db_blocker.unblock(),
            pytest.MonkeyPatch.context() as environment,
            contextlib.ExitStack() as platform,
        ):
            for name, value in getattr(request.module, "SETTINGS", {}).items():
                environment.setenv(name, value)
            running = platform.enter_context(stacks.running(home, {"north": "FR"}, KASBAH_STREAM_HOLD="1.0"))
            running.await_capacity(running.household().key_text)
            yield running
    finally:
        empty_tables(postgres_server.owner_url)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def client_of(stack: Stack) -> Household:
    """A tenant with a key that may use everything."""
    return stack.household()
