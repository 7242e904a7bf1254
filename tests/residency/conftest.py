"""A worker that signs, and tickets as the control plane issues them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .signed import CONTROL, TICKET, Worker


@pytest.fixture
def worker() -> Worker:
    """A worker with a new key."""
    return Worker()


@pytest.fixture
def issue() -> Callable[..., str]:
    """Issues a ticket; fields of TICKET may be given otherwise."""
    from kasbah.residency.services import tickets

    def run(**changed: Any) -> str:
        return tickets.issue(CONTROL, **{**TICKET, **changed})

    return run
