"""Jobs under kills and freezes of workers and brokers: none is lost, none counts twice (row 1 of the design's table).

Real workers with a fake engine, a real broker, real PostgreSQL. What counts as an effect is what is kept of a job: the
state of its row, its usage row and its outcome event.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.db import connection

from inference_worker.contract import keys, scripts
from infra.local.valkey import Valkey, valkey
from kasbah.common import rls
from kasbah.metering.models import Usage
from kasbah.serving.models import Job, JobState
from kasbah.serving.services import submit_background
from tests import factories
from tests.inference_worker.harness import RunningWorker, start_worker, wait_for
from tests.serving.world import Housekeeping, World, make_world

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(280)]

JOBS = 6000
BATCH = 200
LEASE_MS = 3000
KILLS, BROKER_KILLS, FREEZES = 12, 2, 2


class Fleet:
    """Workers that can be killed and come back with the identity they had."""

    def __init__(self, world: World, folder: Path, size: int) -> None:
        self._world, self._folder = world, folder
        self._stacks = [contextlib.ExitStack() for _ in range(size)]
        self.workers: list[RunningWorker] = []
        for index in range(size):
            self.workers.append(self._start(index, world.token()))

    def _start(self, index: int, token: str = "") -> RunningWorker:
        return self._stacks[index].enter_context(
            start_worker(
                self._world.stores[0].url,
                self._folder / f"w{index}",
                token=token,
                models=self._world.models,
                log_level="error",
            )
        )

    def kill(self, index: int) -> None:
        """SIGKILL, then start it again."""
        self.workers[index].process.kill()
        self._stacks[index].close()
        self.workers[index] = self._start(index)

    def freeze(self, index: int, seconds: float) -> None:
        """SIGSTOP for so long."""
        os.kill(self.workers[index].process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.workers[index].process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End them all."""
        for stack in self._stacks:
            stack.close()


@pytest.fixture(params=[True, False], ids=["aof", "no-aof"])
def store(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """A broker of its own: it is killed."""
    with (
        tempfile.TemporaryDirectory(prefix="ksb-") as home,
        valkey(Path(home), "site", aof=request.param) as server,
    ):
        yield server


@pytest.fixture
def survivors(
    transactional_db: None, store: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[World, Fleet]]:
    """A world with two workers and housekeeping."""
    monkeypatch.setenv("KASBAH_LEASE_MS", str(LEASE_MS))
    (tmp_path / "models").mkdir()
    world = make_world([store], tmp_path / "models", slugs=["paris"])
    with Housekeeping(every=0.5):
        fleet = Fleet(world, tmp_path, 2)
        try:
            for worker in fleet.workers:
                worker.await_ready()
            yield world, fleet
        finally:
            fleet.close()


def counts() -> collections.Counter[str]:
    """Jobs by state."""
    with rls.platform_scope():
        return collections.Counter(Job.objects.values_list("state", flat=True))


def unfinished() -> int:
    """Jobs that have not ended."""
    found = counts()
    return found[JobState.QUEUED] + found[JobState.RUNNING]


def test_nothing_is_lost_and_nothing_counts_twice(survivors: tuple[World, Fleet], store: Valkey) -> None:
    world, fleet = survivors
    chance = random.Random(1)
    plan = ["kill"] * KILLS + ["broker"] * BROKER_KILLS + ["freeze"] * FREEZES
    chance.shuffle(plan)
    begun = time.monotonic()
    sent, stale, longest = 0, 0, LEASE_MS / 1000 + 2
    while sent < JOBS or plan:
        fault = plan.pop() if len(plan) > (JOBS - sent) / JOBS * (KILLS + BROKER_KILLS + FREEZES) else ""
        if sent < JOBS:
            # Those that meet a freeze take longer than the lease's renewal: there must be something to refuse.
            delay = 1 if fault == "freeze" else 0.01
            submit_background([world.request(f"[[tokens=2 delay={delay}]] x", stream=False) for _ in range(BATCH)])
            sent += BATCH
        if fault:
            stale += _strike(fault, fleet, store, chance, longest)
    wait_for(lambda: unfinished() == 0, 120, every=0.5)
    seconds = time.monotonic() - begun

    found = counts()
    assert found == {JobState.SUCCEEDED: JOBS}, found
    with rls.platform_scope(), connection.cursor() as cursor:
        assert Usage.objects.count() == JOBS
        attempts = collections.Counter(Job.objects.values_list("attempt", flat=True))
        cursor.execute("SELECT sum(completion_tokens) FROM metering_usage")
        assert cursor.fetchone() == (2 * JOBS,)
    events = collections.Counter(event["type"] for event in factories.events_of(world.home.tenant.id))
    assert events["inference.outcome"] == JOBS
    late, refused = write_late(store)
    assert refused == late > 0  # the faults did hit jobs, and what was given up cannot be written any more
    print(
        f"\n{JOBS} jobs in {seconds:.0f} s, attempts {dict(sorted(attempts.items()))}, "
        f"stale writes of thawed workers {stale}, late writes refused {refused} of {late}"
    )


def _strike(kind: str, fleet: Fleet, store: Valkey, chance: random.Random, longest: float) -> int:
    """One fault. Answers the stale writes that a freeze led to."""
    index = chance.randrange(2)
    if kind == "kill":
        fleet.kill(index)
    elif kind == "broker":
        store.kill()
        time.sleep(0.5)
        store.start()
    else:
        # One that is answering: else there is nothing that could be refused.
        wait_for(lambda: _running(fleet.workers[index]) > 0, 30)
        fleet.freeze(index, longest)
        time.sleep(2.5)  # it goes on where it was, and reports
        return _stale(fleet.workers[index])
    return 0


def write_late(store: Valkey) -> tuple[int, int]:
    """Try to write for attempts that were given up, as a worker that knows nothing of it. Answers (tried, refused)."""
    with rls.platform_scope():
        rows = list(Job.objects.filter(attempt__gt=1).values_list("id", "attempt")[:200])
    with redis.Redis.from_url(store.url) as client:
        append = client.register_script(scripts.APPEND)
        answers = [
            append(
                keys=[keys.job(str(job)), keys.frames(str(job), attempt - 1), keys.replies("background")],
                args=[str(job), attempt - 1, "w", 0, b"late", "1", keys.FRAMES_TTL, LEASE_MS],
            )
            for job, attempt in rows
        ]
    return len(answers), answers.count(scripts.STALE)


def _running(worker: RunningWorker) -> int:
    report = worker.report()
    return sum(served.running for served in report.served) if report else 0


def _stale(worker: RunningWorker) -> int:
    report = worker.report()
    return report.stale if report else 0
