"""The store goes away and comes back; the worker stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_worker.contract.frames import Done, Role, is_terminal
from infra.local.valkey import Valkey, valkey
from tests.inference_worker.harness import ControlPlane, Serving, chat, start_worker, text_of, wait_for

pytestmark = pytest.mark.slow  # each starts workers of its own


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Valkey, Serving]]:
    """A server for one test, which keeps its data, and a worker at it."""
    with (
        valkey(tmp_path, "site", settings={"appendfsync": "always"}) as server,
        ControlPlane(server.url) as control,
        start_worker(server.url, tmp_path / "w", token=control.token(), models=tmp_path / "m") as worker,
    ):
        deployment = control.deployment(tmp_path / "m")
        control.assign(worker.id, deployment)
        worker.await_ready()
        yield server, Serving(control, worker, deployment)


def test_a_stream_survives_a_restart_of_the_store(own: tuple[Valkey, Serving]) -> None:
    server, serving = own
    sent = serving.control.submit(serving.deployment, chat("[[tokens=150 delay=0.02 tag=s]]"))
    wait_for(lambda: len(serving.control.arrived(sent)) > 10)
    server.kill()
    time.sleep(1.0)
    server.start()
    given = serving.control.frames(sent, 20)
    assert isinstance(given[-1], Done)
    assert text_of(given) == "".join(f" s{i}" for i in range(150))
    assert sum(isinstance(frame, Role) for frame in given) == 1
    assert isinstance(serving.ask(chat("[[tokens=2]]"))[1][-1], Done)


def test_a_job_that_cannot_be_written_within_its_lease_stops_the_engine(own: tuple[Valkey, Serving]) -> None:
    server, serving = own
    sent = serving.control.submit(serving.deployment, chat("[[tokens=5000 delay=0.02 tag=lost ]]"))
    wait_for(lambda: len(serving.control.arrived(sent)) > 10)
    server.kill()
    began = time.monotonic()
    wait_for(lambda: serving.request("aborted", "lost"), 20)
    assert 5 < time.monotonic() - began < 14  # the lease is 10 s
    server.start()
    assert isinstance(serving.ask(chat("[[tokens=2]]"))[1][-1], Done)
    assert not any(map(is_terminal, serving.control.arrived(sent)))
    assert serving.worker.states() == {serving.deployment.deployment: "ready"}


def test_a_store_that_forgot_everything_gets_no_stray_frames(own: tuple[Valkey, Serving]) -> None:
    _, serving = own
    sent = serving.control.submit(serving.deployment, chat("[[tokens=500 delay=0.02 tag=gone ]]"))
    wait_for(lambda: len(serving.control.arrived(sent)) > 3)
    serving.control.store.flushall()
    wait_for(lambda: serving.request("aborted", "gone"), 3)
    assert not serving.control.entries(sent)
    assert isinstance(serving.ask(chat("[[tokens=2]]"))[1][-1], Done)
