"""What an assignment does to a worker that cannot follow it, and what it says of the worker."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from inference_worker.assignments import Assignments
from inference_worker.contract.messages import Assignment, now, signed
from inference_worker.contract.signing import Purpose, Signer, Verifier
from inference_worker.identity import Identity, State

CONTROL, WORKER = Signer.from_raw(os.urandom(32)), Signer.from_raw(os.urandom(32))


def make(folder: Path, follow: Callable[[Assignment], None] = lambda _: None) -> Assignments:
    identity = Identity("w", "s", WORKER, X25519PrivateKey.generate(), Verifier([CONTROL.public]), b"salt")
    store: Any = None
    return Assignments(store, identity, State(folder), follow)


def token(revision: int, *, signer: Signer = CONTROL, **changes: Any) -> str:
    fields: dict[str, Any] = {"worker": "w", "state": "active", "deployments": [], "issued": now()}
    return signed(signer, Purpose.ASSIGNMENT, Assignment(revision=revision, **(fields | changes)))


def test_what_the_control_plane_finds_wrong_is_logged_once_a_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    taking = make(tmp_path)
    notice = "its clock is 300 s ahead of the control plane's; set it"
    for revision in range(3):
        taking.take(token(revision, notices=[notice]))
    taking.take(token(3))
    assert caplog.messages == [
        f"the control plane says of this worker: {notice}",
        "the control plane finds nothing wrong with this worker any more",
    ]


@pytest.mark.parametrize("wrong", ["signature", "worker", "older", "no token"])
def test_refused_assignment_is_the_workers_trouble_until_one_is_followed(tmp_path: Path, wrong: str) -> None:
    taking = make(tmp_path)
    taking.take(token(5))
    given = {
        "signature": token(6, signer=WORKER),
        "worker": token(6, worker="another"),
        "older": token(4),
        "no token": "rubbish",
    }[wrong]
    taking._take_apart(given.encode())
    assert taking.trouble.startswith("an assignment was refused: ")
    taking.take(token(7))
    assert taking.trouble == ""


def test_assignment_that_cannot_be_followed_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Assignment) -> None:
        raise RuntimeError("a defect")

    taking = make(tmp_path, fails)
    taking._take_apart(token(1).encode())
    assert "could not be followed" in taking.trouble
    with pytest.raises(RuntimeError):  # the control: it would have ended the worker
        taking.take(token(2))
