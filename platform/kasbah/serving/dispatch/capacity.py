"""Which sites have workers for a deployment now: signed reports of the workers, read each second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from inference_worker.contract import keys, messages
from inference_worker.contract.bounds import TOKEN
from inference_worker.contract.loggate import LogGate
from inference_worker.contract.messages import Report, checked
from inference_worker.contract.signing import BadToken, Purpose, Verifier
from kasbah.serving.dispatch.store import Store
from kasbah.serving.models import WorkerState
from kasbah.serving.receipts import keys_of
from kasbah.serving.records import WorkerRecord

CLOCK_SKEW = 60  # seconds; an older report is a replay or a wrong clock
CLOSED = (WorkerState.CORDONED, WorkerState.DRAINED)
FORGOTTEN = keys.WORKER_TTL  # seconds without a successful look at a site, after which nothing is known of it

logger = logging.getLogger(__name__)


class Capacity:
    """What the workers of each site last said. Reads never wait: `refresh` is called by the dispatcher's watch."""

    def __init__(self, load: Callable[[UUID, str], int]) -> None:
        self._load = load  # (site, deployment) -> jobs of this process there: reports are up to a second old
        self._workers: dict[UUID, WorkerRecord] = {}
        self.by_key: dict[str, WorkerRecord] = {}  # by the id of the signing key
        self._tokens: dict[UUID, bytes] = {}
        self._reports: dict[UUID, Report] = {}
        self._seen_at: dict[UUID, float] = {}
        self._reasons: dict[UUID, str] = {}
        self._open: frozenset[UUID] = frozenset()
        self._gate = LogGate()

    def set_workers(self, workers: Iterable[WorkerRecord]) -> None:
        """The approved workers; reports of others are not believed."""
        self._workers = {worker.id: worker for worker in workers}
        self.by_key = keys_of(self._workers)

    def set_sites(self, sites: Iterable[UUID]) -> None:
        """The sites that take new jobs; nothing is sent to one that is cordoned or drained."""
        self._open = frozenset(sites)

    async def refresh(self, site: UUID, store: Store, name: str = "") -> None:
        """Look at the workers of one site, whose `name` is for the log; what was known is forgotten after five seconds.

        Raises StoreAway.
        """
        workers = [worker for worker in self._workers.values() if worker.site_id == site]
        values = await store.values([keys.worker(str(worker.id)) for worker in workers])
        if not workers:
            await store.ping()
        for worker, token in zip(workers, values, strict=True):
            self._take(worker, token, name or str(site))
        self._seen_at[site] = time.monotonic()
        self._reasons.pop(site, None)

    def _take(self, worker: WorkerRecord, token: bytes | None, site: str) -> None:
        if token is None:
            self._reports.pop(worker.id, None)
            self._tokens.pop(worker.id, None)
        elif self._tokens.get(worker.id) != token:
            self._tokens[worker.id] = token
            try:
                self._reports[worker.id] = check_report(worker, token.decode())
                self._gate.ended(str(worker.id))
            except (BadToken, UnicodeDecodeError) as error:
                self._reports.pop(worker.id, None)
                # Housekeeping shows the reason to people; here it is logged once a kind.
                kind = "clock" if isinstance(error, ClockOff) else str(error)
                if self._gate.due(str(worker.id), kind):
                    logger.warning("The report of worker %s at site %s is not believed: %s", worker.name, site, error)

    def is_up(self, site: UUID) -> bool:
        """Whether the site's store answered lately."""
        return time.monotonic() - self._seen_at.get(site, float("-inf")) < FORGOTTEN

    def is_down_now(self, site: UUID, reason: str = "") -> None:
        """Somebody found the site's store away or unfit: nothing is sent there before a look succeeds."""
        self._seen_at.pop(site, None)
        if reason:
            self._reasons[site] = reason

    def reason(self, site: UUID) -> str:
        """Why nothing is sent to a site that is not up, as far as that is known."""
        return self._reasons.get(site, "")

    def ready(self, deployment: UUID, sites: Sequence[UUID]) -> tuple[UUID, ...]:
        """Those of `sites` where a worker serves the deployment now, the one with most free capacity first."""
        free = {site: self._free(deployment, site) for site in sites if site in self._open and self.is_up(site)}
        found = {site: places for site, places in free.items() if places is not None}
        return tuple(sorted(found, key=lambda site: -found[site]))

    def _free(self, deployment: UUID, site: UUID) -> int | None:
        """Free places, negative where jobs wait; None where nobody serves it."""
        name, places, running, serves = str(deployment), 0, 0, False
        for worker in self._workers.values():
            report = self._reports.get(worker.id)
            if worker.site_id != site or report is None or report.state != "active":
                continue
            if worker.state in CLOSED:
                continue  # one marked lost, whose fresh report lies here, is not
            for served in report.served:
                if served.deployment == name and served.state == "ready":
                    serves, places, running = True, places + served.capacity, running + served.running
        return places - max(running, self._load(site, name)) if serves else None


class ClockOff(BadToken):
    """A report that is sound but for its time: `offset` seconds ahead of here, negative behind; or an old one."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"its clock is {shown_offset(offset)}, or the report is an old one")
        self.offset = offset


def shown_offset(offset: int) -> str:
    """For people."""
    return f"{abs(offset)} s {'ahead of' if offset > 0 else 'behind'} the control plane's"


def check_report(worker: WorkerRecord, token: str) -> Report:
    """The report of a token that this worker signed just now. Raises BadToken, of which ClockOff is one."""
    if len(token) > TOKEN:
        raise BadToken("it is too long")
    report = checked(Verifier.from_raw(*worker.valid_keys()), Purpose.REPORT, token, Report)
    if report.worker != str(worker.id) or report.site != str(worker.site_id):
        raise BadToken("the report names another worker or site")
    offset = report.time - messages.now()
    if abs(offset) > CLOCK_SKEW:
        raise ClockOff(offset)
    return report
