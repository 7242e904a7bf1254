"""What workers say of themselves, heard each second. Nothing is believed without a signature of an enrolled worker.

Sites and workers are each looked at by themselves: what one says or does stops the look at no other.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import msgspec
from django.utils import timezone

from inference_worker.contract import keys, messages
from inference_worker.contract.messages import Report
from inference_worker.contract.signing import BadToken
from kasbah.audit.services import EventType, Resource, egress, record
from kasbah.common import rls
from kasbah.common.isolation import Isolation
from kasbah.identity.services import system
from kasbah.residency.models import Site
from kasbah.residency.services import Look, note_health
from kasbah.serving.dispatch.capacity import ClockOff, check_report
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.housekeeping import assignments, brokers, keyturn, troubles, workers_egress
from kasbah.serving.housekeeping.entries import Entries
from kasbah.serving.housekeeping.identities import record_of
from kasbah.serving.housekeeping.sites import Reached, all_sites, backoff, reach
from kasbah.serving.housekeeping.troubles import Finding
from kasbah.serving.models import LOST_AFTER, UNHEARD, Worker, WorkerState
from kasbah.serving.services.events import event

WRITTEN_EVERY = timedelta(seconds=5)  # a row whose worker says nothing new

logger = logging.getLogger(__name__)
isolation = Isolation(logger)


@dataclass(slots=True)
class Heard:
    """What one look at a site's workers found."""

    workers: list[Worker]
    reports: list[Report] = field(default_factory=list)

    @property
    def look(self) -> Look:
        """Of the site."""
        served = [each for report in self.reports for each in report.served if each.state == "ready"]
        active = [report for report in self.reports if report.state == "active"]
        takes = [each for report in active for each in report.served if each.state == "ready"]
        return Look(
            workers=len(self.workers),
            alive=len(self.reports),
            capacity=sum(each.capacity for each in takes),
            running=sum(each.running for each in served),
            troubles=tuple(
                f"{worker.name}: {text}" for worker in self.workers for text in troubles.texts(worker.troubles)
            ),
        )


def collect() -> Counter[str]:
    """One tick over all sites. Answers what was heard, by kind."""
    heard: Counter[str] = Counter()
    with isolation.apart("The ledger of egress"):
        egress.tell()
    for site in all_sites():
        if not backoff.due(site.id):
            heard["sites away"] += 1
            continue
        with isolation.apart(f"The look at site {site.slug}"):
            _look_at(site, heard)
    with isolation.apart("The rotation of signing keys"):
        keyturn.turn_signing_keys()
    return heard


def _look_at(site: Site, heard: Counter[str]) -> None:
    with reach(site) as reached:
        broker, found = brokers.state(reached), Look()
        try:
            found = replace(_collect_site(reached, heard), broker=broker)
            backoff.answered(site.id)
        except StoreAway as error:
            heard["sites away"] += 1
            backoff.failed(site.id)
            found = replace(found, broker=broker, store=type(error.__cause__ or error).__name__)
    if note_health(site, found):
        logger.warning("Site %s is %s (broker %s, store %s)", site.slug, found.life, found.broker, found.store)


def _collect_site(reached: Reached, heard: Counter[str]) -> Look:
    """Read what lies there, hear each worker, and tell each what to do. Raises StoreAway."""
    site = reached.site
    heard += Entries(reached).read()
    found = Heard(_workers(site))
    tokens = reached.store.values([keys.worker(str(worker.id)) for worker in found.workers])
    for worker, token in zip(found.workers, tokens, strict=True):
        with isolation.apart(f"The report of worker {worker.name} of site {site.slug}"):
            if (report := _hear(worker, token)) is not None:
                heard["reports"] += 1
                found.reports.append(report)
    with isolation.apart(f"The rotation of the keys of site {site.slug}"):
        keyturn.turn_site_keys(site, found.workers)
    with isolation.apart(f"The assignments of site {site.slug}", StoreAway):
        assignments.write(reached, found.workers)
    return found.look


def _hear(worker: Worker, token: bytes | None) -> Report | None:
    """The report of a worker, written down; None where there is none that is believed."""
    found: list[Finding] = []
    report: Report | None = None
    before = (worker.clock_offset, list(worker.starts))
    if token is not None:
        try:
            report = check_report(record_of(worker), token.decode("ascii"))
        except ClockOff as error:
            found = troubles.of_clock(worker, error.offset)
        except (BadToken, UnicodeDecodeError) as error:
            found = [Finding(troubles.REPORT, f"its report is refused: {error}")]
    if report is not None:
        offset = report.time - messages.now()
        found = [*troubles.of_clock(worker, offset), *troubles.of_report(worker, report)]
    names = ("clock_offset", "starts")
    fields = [name for name, old in zip(names, before, strict=True) if getattr(worker, name) != old]
    with rls.platform_scope():
        fields += troubles.note(worker, found, whole=token is not None)
        if fields:
            worker.save(update_fields=fields)
    if report is None:
        notice_silence(worker)
    else:
        take_report(worker, report)
    return report


def _workers(site: Site) -> list[Worker]:
    """Those that were approved and not revoked: nobody else is heard or told anything."""
    with rls.platform_scope():
        rows = Worker.objects.filter(site=site).exclude(state__in=UNHEARD).select_related("site")
        return list(rows.prefetch_related("former_keys"))


def take_report(worker: Worker, report: Report) -> None:
    """Write what a worker says of itself; one that was lost is back."""
    now = timezone.now()
    said: dict[str, Any] = {
        "served": msgspec.to_builtins(report.served),
        "hardware": msgspec.to_builtins(report.hardware),
        "engine": report.engine,
        "start": report.start[:32],
        "answered": report.answered,
        "refused": report.refused,
        "stale_writes": report.stale,
        "egress_refused": report.egress_refused,
        "egress": workers_egress.sound(report.egress),
        "trusted_keys": report.trusts,
        "held_keys": report.opens,
    }
    changed = [name for name, value in said.items() if getattr(worker, name) != value]
    back = worker.state == WorkerState.LOST
    if not changed and not back and worker.last_seen_at and now - worker.last_seen_at < WRITTEN_EVERY:
        return
    before = worker.egress
    for name in changed:
        setattr(worker, name, said[name])
    worker.last_seen_at = now
    with rls.platform_scope():
        worker.save(update_fields=[*changed, "last_seen_at"])
        if "egress" in changed:
            workers_egress.note(worker, before)
        if back:
            _set_state(worker, WorkerState.LOST, WorkerState.ENROLLED, EventType.WORKER_RESUMED)


def notice_silence(worker: Worker) -> None:
    """Mark a worker lost that has said nothing for fifteen seconds."""
    since = worker.last_seen_at or worker.created_at
    if worker.state == WorkerState.ENROLLED and timezone.now() - since > LOST_AFTER:
        with rls.platform_scope():
            _set_state(worker, WorkerState.ENROLLED, WorkerState.LOST, EventType.WORKER_LOST)


def _set_state(worker: Worker, before: WorkerState, after: WorkerState, kind: EventType) -> None:
    """Unless an operator has changed it meanwhile."""
    if Worker.objects.filter(pk=worker.pk, state=before).update(state=after):
        worker.state = after
        resource = Resource("worker", str(worker.id))
        record(event(kind, system("housekeeping"), resource, site=str(worker.site_id), worker=str(worker.id)))
