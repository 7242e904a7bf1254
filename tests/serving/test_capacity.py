"""Which sites are ready: only what workers signed just now, and what this process has sent there itself."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from inference_worker.contract import keys, messages
from inference_worker.contract.signing import Signer
from kasbah.serving.dispatch import capacity as capacities
from kasbah.serving.dispatch.capacity import Capacity
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.records import WorkerRecord
from tests.serving.stand_in import StandIn


class Shelf:
    """A store that holds reports."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.away = False

    async def values(self, names: list[str]) -> list[bytes | None]:
        if self.away:
            raise StoreAway("TimeoutError")
        return [self.tokens[name].encode() if name in self.tokens else None for name in names]

    async def ping(self) -> None:
        await self.values([])


SITES = (uuid4(), uuid4())
DEPLOYMENT = uuid4()


def worker(shelf: Shelf, site: UUID, wanted: str = "enrolled", /, **report: Any) -> WorkerRecord:
    private = os.urandom(32)
    standing = StandIn("redis://127.0.0.1:1", str(uuid4()), str(site), private, b"", str(DEPLOYMENT))
    shelf.tokens[keys.worker(standing.worker)] = standing.report(**report)
    standing.close()
    public = Signer.from_raw(private).public.public_bytes_raw()
    return WorkerRecord(UUID(standing.worker), site, "w", public, wanted)


async def ready(shelf: Shelf, *workers: WorkerRecord, load: Counter[Any] | None = None) -> tuple[UUID, ...]:
    sent: Counter[Any] = load or Counter()
    found = Capacity(lambda site, deployment: sent[site, deployment])
    found.set_workers(workers)
    found.set_sites(SITES)
    for site in SITES:
        await found.refresh(site, shelf)  # type: ignore[arg-type]
    return found.ready(DEPLOYMENT, SITES)


async def test_the_freest_site_comes_first() -> None:
    shelf = Shelf()
    busy = worker(shelf, SITES[0], capacity=8, running=7)
    idle = worker(shelf, SITES[1], capacity=4, running=0)
    assert await ready(shelf, busy, idle) == (SITES[1], SITES[0])
    sent = Counter({(SITES[1], str(DEPLOYMENT)): 4})  # since the last report
    assert await ready(shelf, busy, idle, load=sent) == (SITES[0], SITES[1])


async def test_workers_of_a_site_add_up() -> None:
    shelf = Shelf()
    first = [worker(shelf, SITES[0], capacity=4, running=2) for _ in range(3)]
    second = worker(shelf, SITES[1], capacity=5, running=0)
    assert await ready(shelf, *first, second) == (SITES[0], SITES[1])


@pytest.mark.parametrize(
    "change",
    [
        {"wanted": "drained"},
        {"state": "starting"},
        {"time": messages.now() - capacities.CLOCK_SKEW - 5},
        {"worker": str(uuid4())},
        {"site": str(SITES[1])},
        {"served": []},
    ],
    ids=["drained", "engine starting", "old", "other worker", "other site", "serves nothing"],
)
async def test_what_does_not_make_a_site_ready(change: dict[str, Any]) -> None:
    shelf = Shelf()
    report = {name: value for name, value in change.items() if name != "wanted"}
    assert await ready(shelf, worker(shelf, SITES[0], change.get("wanted", "enrolled"), **report)) == ()
    assert await ready(shelf, worker(shelf, SITES[0])) == (SITES[0],)  # the negative control


async def test_a_report_of_another_key_is_not_believed() -> None:
    shelf = Shelf()
    first, second = worker(shelf, SITES[0]), worker(shelf, SITES[0])
    names = [keys.worker(str(record.id)) for record in (first, second)]
    shelf.tokens[names[0]] = shelf.tokens.pop(names[1])
    assert await ready(shelf, first) == ()


async def test_report_that_is_not_believed_is_logged_once_with_names(caplog: pytest.LogCaptureFixture) -> None:
    shelf, found = Shelf(), Capacity(lambda *_: 0)
    private = os.urandom(32)
    record = WorkerRecord(uuid4(), SITES[0], "gpu-1", Signer.from_raw(private).public.public_bytes_raw(), "enrolled")
    standing = StandIn("redis://127.0.0.1:1", str(record.id), str(SITES[0]), private, b"", str(DEPLOYMENT))
    found.set_workers([record])
    for late in range(5):
        shelf.tokens[keys.worker(standing.worker)] = standing.report(time=messages.now() + 300 + late)
        await found.refresh(SITES[0], shelf, "paris")  # type: ignore[arg-type]
    (said,) = caplog.messages
    assert "worker gpu-1 at site paris" in said
    assert "300 s ahead of" in said
    standing.close()


async def test_a_worker_that_is_gone_or_unknown() -> None:
    shelf = Shelf()
    record = worker(shelf, SITES[0])
    assert await ready(shelf) == ()
    shelf.tokens.clear()
    assert await ready(shelf, record) == ()


async def test_what_is_known_of_a_silent_site_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    found = Capacity(lambda *_: 0)
    found.set_workers([worker(shelf, SITES[0])])
    found.set_sites(SITES)
    await found.refresh(SITES[0], shelf)  # type: ignore[arg-type]
    assert found.ready(DEPLOYMENT, SITES) == (SITES[0],)
    shelf.away = True
    with pytest.raises(StoreAway):
        await found.refresh(SITES[0], shelf)  # type: ignore[arg-type]
    assert found.ready(DEPLOYMENT, SITES) == (SITES[0],)
    monkeypatch.setattr(capacities, "FORGOTTEN", 0)
    assert found.ready(DEPLOYMENT, SITES) == ()
    monkeypatch.undo()
    found.is_down_now(SITES[0])
    assert found.ready(DEPLOYMENT, SITES) == ()
