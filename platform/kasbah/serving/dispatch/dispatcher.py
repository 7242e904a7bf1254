"""Jobs from a web process to the sites and their answers back; one Dispatcher a process.

job = dispatcher.prepare(request)          # seals the payload, chooses the site, signs the ticket
(the job's row is committed)
running = await dispatcher.submit(job)     # offers the first attempt
async for frames in running.frames(): ...  # the last list ends with Done or Failed
(running.outcome(frame) is committed)
running.close()
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from inference_worker.contract import keys, sealing
from inference_worker.contract.frames import Done, Failed
from inference_worker.contract.messages import JobMessage, Payload
from inference_worker.contract.signing import BadToken, b64
from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.common.errors import Unavailable
from kasbah.common.ids import uuid7
from kasbah.residency.services import ControlKeys, SiteRecord, load_control_keys, load_sites, tickets
from kasbah.serving import receipts
from kasbah.serving.dispatch import again, watch
from kasbah.serving.dispatch import running as runs
from kasbah.serving.dispatch.capacity import Capacity
from kasbah.serving.dispatch.link import Link
from kasbah.serving.dispatch.publisher import Offer
from kasbah.serving.dispatch.replies import Entry
from kasbah.serving.dispatch.running import Fed, Running
from kasbah.serving.dispatch.store import CANCEL, StoreAway
from kasbah.serving.dispatch.tasks import end
from kasbah.serving.loaders import load_workers
from kasbah.serving.records import JobRequest, NewJob
from kasbah.serving.replysecret import reply_secret
from kasbah.serving.rows import renew_rows
from kasbah.serving.timings import Timings, timings

RETRY_AFTER = 5.0  # seconds, told to clients while a site is away
SUBMIT_WITHIN = 1.8  # seconds

logger = logging.getLogger(__name__)


class Dispatcher:
    """See the module. `owner` names this process's stream of replies; `counters` tell what was refused and retried."""

    def __init__(self, database: Database, listener: ChangeListener, limits: Timings | None = None) -> None:
        self.owner = f"web-{os.getpid()}-{os.urandom(6).hex()}"
        self.timings = limits or timings()
        self.capacity = Capacity(lambda site, deployment: self._load[site, deployment])
        self.counters: Counter[str] = Counter()
        self.database = database
        self._load: Counter[tuple[UUID, str]] = Counter()
        self._links: dict[UUID, Link] = {}
        self._sealing_keys: dict[UUID, X25519PublicKey] = {}
        self._control: ControlKeys | None = None
        self._running: dict[str, Running] = {}
        self._stale = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        listener.subscribe(self._changed)

    # --- life

    async def start(self) -> None:
        """Know sites and workers, and read; returns after a first look at every site that answers."""
        await self._reload()
        self._spawn(self._reloading(), "serving reload")
        self._spawn(self._renewing(), "serving renew rows")
        for _ in range(100):
            if all(self.capacity.is_up(site) and link.reader.reading.is_set() for site, link in self._links.items()):
                break
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End what still runs with an error, and everything else."""
        for running in list(self._running.values()):
            running.fail(503, "service_unavailable", "The server is shutting down. Try again.")
        await end(list(self._tasks))
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links = {}

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s ended with an error", task.get_name(), exc_info=error)

    def _changed(self, topic: str, _ident: str) -> None:
        if topic in {"site", "worker", "signing_key", "*"}:
            self._stale.set()

    async def _reloading(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._reload()
            except Unavailable:
                self._stale.set()
                await asyncio.sleep(1)

    async def _reload(self) -> None:
        async with self.database.transaction(None) as connection:
            sites = {site.id: site for site in await load_sites(connection)}
            workers = await load_workers(connection)
            self._control = await load_control_keys(connection)
        self.capacity.set_workers(workers)
        self.capacity.set_sites(site.id for site in sites.values() if site.takes_jobs)
        self._sealing_keys = {site.id: X25519PublicKey.from_public_bytes(site.public_key) for site in sites.values()}
        for site, link in list(self._links.items()):
            # Not for a new sealing key or state: jobs under way keep their link.
            if (now := sites.get(site)) is None or now.addresses != link.record.addresses:
                del self._links[site]
                await link.close()
        for site, record in sites.items():
            if site not in self._links:
                self._open(record)

    def _open(self, record: SiteRecord) -> None:
        link = Link(record, self.owner, self.timings, self._deliver, self._resumed)
        self._links[record.id] = link
        link.start(lambda link: watch.watch(self, link))

    # --- a job out

    def prepare(self, request: JobRequest) -> NewJob:
        """Seal the request for each compliant site and choose the first. Raises Unavailable (no_capacity)."""
        ready = self.capacity.ready(request.deployment_id, request.sites)
        if not ready:
            raise Unavailable(
                "No worker serves this model now. Try again in a few seconds.",
                code="no_capacity",
                retry_after=RETRY_AFTER,
            )
        job_id = uuid7()
        payload = Payload(
            path=request.endpoint, body=request.body, stream=request.stream, reply_secret=reply_secret(job_id)
        )
        sites = {str(site): key for site in request.sites if (key := self._sealing_keys.get(site))}
        sealed = sealing.seal_payload(msgspec.msgpack.encode(payload), job=str(job_id), sites=sites)
        job = NewJob(
            id=job_id,
            tenant_id=request.tenant_id,
            project_id=request.project_id,
            api_key_id=request.api_key_id,
            deployment_id=request.deployment_id,
            model_digest=request.model_digest,
            request_id=request.request_id,
            endpoint=request.endpoint,
            stream=request.stream,
            data_class=request.data_class,
            policy=request.policy,
            sites=request.sites,
            site=ready[0],
            owner=self.owner,
            payload=sealed,
            ticket="",
        )
        return dataclasses.replace(job, ticket=self.ticket_of(job, 1))

    def ticket_of(self, job: NewJob, attempt: int) -> str:
        """A new ticket for one attempt."""
        if self._control is None:
            raise Unavailable("No signing key is known here yet. Try again in a few seconds.", retry_after=RETRY_AFTER)
        return tickets.issue(
            self._control.current,
            job=job.id,
            attempt=attempt,
            tenant=job.tenant_id,
            deployment=job.deployment_id,
            policy=job.policy,
            data_class=job.data_class,
            sites=job.sites,
            model_digest=job.model_digest,
            payload=job.payload,
        )

    async def submit(self, job: NewJob) -> Running:
        """Offer the first attempt of a job whose row is committed.

        Raises Unavailable within two seconds when the site's store is away; settle the row as failed then.
        """
        running = Running(job, reply_secret(job.id), self.cancel, self.forget)
        self._running[running.key] = running
        self._load[job.site, str(job.deployment_id)] += 1
        try:
            async with asyncio.timeout(SUBMIT_WITHIN):
                await self.offer(running)
        except (StoreAway, TimeoutError) as error:
            self.capacity.is_down_now(job.site)
            self.forget(running)
            raise Unavailable(
                "The site that would answer cannot be reached. Try again in a few seconds.", retry_after=RETRY_AFTER
            ) from error
        except BaseException:
            self.forget(running)
            raise
        return running

    async def offer(self, running: Running) -> None:
        """Send the current attempt to its site. Raises StoreAway."""
        job, link = running.job, self._links.get(running.site)
        if link is None or not link.reader.reading.is_set():
            raise StoreAway("the replies of the site are not being read")
        message = JobMessage(
            job=running.key,
            attempt=running.attempt,
            ticket=running.ticket,
            payload=b64(job.payload),
            reply_to=self.owner,
        )
        running.offered_at = time.monotonic()
        await link.offers.submit(Offer(str(job.deployment_id), message))

    def forget(self, running: Running) -> None:
        """The job is settled, or given to housekeeping."""
        if self._running.pop(running.key, None) is not None:
            self._load[running.site, str(running.job.deployment_id)] -= 1

    def moves(self, running: Running, site: UUID) -> None:
        """Its next attempt will be at `site`."""
        self.counters["retried"] += 1
        if running.key in self._running:
            self._load[running.site, str(running.job.deployment_id)] -= 1
            self._load[site, str(running.job.deployment_id)] += 1

    async def cancel(self, running: Running) -> None:
        """Mark it, so that its worker stops; one that nobody has claimed ends at once."""
        link = self._links.get(running.site)
        if link is None:
            return
        try:
            await link.store.run(CANCEL, [((keys.job(running.key),), ())])
            asked = (running.key, str(running.job.deployment_id))
            (sight,) = await link.carrier.look([asked], self.timings.lease_ms)
        except StoreAway:
            return  # the watch asks again when the store is back
        if not sight.worker and sight.attempt == running.attempt:
            # In its queue: who takes it later sees the mark and does nothing.
            running.finish(Done(runs.NO_USAGE, "", cancelled=True))

    # --- answers in

    def _deliver(self, entry: Entry) -> None:
        job, attempt, sequence, sealed = entry
        running = self._running.get(job)
        if running is None:
            return
        fed = running.feed(attempt, sequence, sealed)
        self.counters[fed.value] += 1
        if fed in {Fed.GAP, Fed.BAD}:
            self._spawn(self.catch_up(running), "serving catch up")
        elif running.terminal is not None and not running.ended:
            self._conclude(running)

    def _resumed(self, site: UUID) -> None:
        """Anything may have been missed."""
        for running in self._running.values():
            if running.site == site and not running.ended and time.monotonic() - running.offered_at > 0.2:
                self._spawn(self.catch_up(running), "serving catch up")

    async def catch_up(self, running: Running) -> None:
        """Read what the store keeps of the current attempt; what was seen before is passed over."""
        link = self._links.get(running.site)
        if link is None or running.ended:
            return
        attempt = running.attempt
        try:
            entries = await link.store.frames(running.key, attempt)
        except StoreAway:
            return
        self.counters["caught_up"] += 1
        for sequence, sealed in entries:
            if running.feed(attempt, sequence, sealed) is Fed.BAD:
                logger.error("Frames of job %s were altered in the store of site %s", running.key, running.site)
                running.fail(502, "answer_altered", "The answer was altered on its way and is withheld.")
                return
        if running.terminal is not None and not running.ended:
            self._conclude(running)

    def _conclude(self, running: Running) -> None:
        """The worker's last word: believed with a receipt that holds; another attempt where that may help."""
        frame = running.terminal
        if frame is None:
            return
        if isinstance(frame, Failed) and self._may_help(running, frame):
            self._spawn(self.again([running]), "serving again")
            return
        try:
            self._check_receipt(running, frame)
        except receipts.UnknownWorker:
            self._spawn(self._conclude_after_reload(running, frame), "serving receipt")
        except BadToken as error:
            self._disbelieve(running, error)
        else:
            running.finish(frame)

    def _may_help(self, running: Running, frame: Failed) -> bool:
        """Whether another attempt may. A request that ended its engine, or made it fail, twice is what does it."""
        running.engine_failures += frame.code in runs.ENGINE_FAILURES
        if running.engine_failures >= self.timings.engine_attempts:
            return False
        return frame.retry and not running.relayed and not running.cancelled

    def _check_receipt(self, running: Running, frame: Done | Failed) -> None:
        if not frame.receipt:
            if isinstance(frame, Done) and not frame.cancelled:
                raise BadToken("an answer without a receipt")
            return
        job = running.job
        about = receipts.Attempt(job.id, running.attempt, job.tenant_id, job.policy, running.site, running.ticket)
        running.worker = UUID(receipts.check(frame.receipt, about, self.capacity.by_key).worker)

    async def _conclude_after_reload(self, running: Running, frame: Done | Failed) -> None:
        try:
            await self._reload()
            self._check_receipt(running, frame)
        except (BadToken, Unavailable) as error:
            self._disbelieve(running, error)
        else:
            running.finish(frame)

    def _disbelieve(self, running: Running, error: Exception) -> None:
        self.counters["bad_receipt"] += 1
        logger.error("The receipt of job %s is not believed: %s", running.key, error)
        running.fail(502, "bad_receipt", "The answer came without a valid receipt and is withheld.")

    async def again(self, lost: Sequence[Running]) -> None:
        """Try jobs again whose attempt is lost (see `again.py`)."""
        await again.again(self, lost)

    # --- rows

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(self.timings.row_renewal)
            old = time.monotonic() - self.timings.row_renewal / 2
            jobs = [running for running in self._running.values() if running.started_at < old]
            if not jobs:
                continue
            rows = [(running.job.id, running.attempt, running.worker) for running in jobs]
            try:
                async with self.database.transaction(None) as connection:
                    await renew_rows(connection, rows, self.timings.row_lease)
            except Unavailable:
                logger.warning("The rows of %d running jobs could not be renewed", len(jobs))

    def running_at(self, site: UUID) -> list[Running]:
        """The jobs whose current attempt is at this site."""
        return [running for running in self._running.values() if running.site == site and not running.ended]
