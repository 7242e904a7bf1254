"""What workers say: enrolment, liveness, refusals. Nothing is believed without a signature of an enrolled worker."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.utils import timezone

from inference_worker.contract import keys
from inference_worker.contract.messages import Refusal, RefusalCode, Report, checked
from inference_worker.contract.signing import BadToken, Purpose, Verifier
from kasbah.audit.services import EventType, Outcome, Resource, egress, record
from kasbah.common import rls
from kasbah.identity.services import system
from kasbah.residency.models import Site
from kasbah.residency.services import Look, note_health
from kasbah.serving import receipts
from kasbah.serving.dispatch.capacity import check_report
from kasbah.serving.dispatch.store import REFUSE, StoreAway
from kasbah.serving.housekeeping import assignments, brokers, enrol, identities, keyturn, workers_egress
from kasbah.serving.housekeeping.identities import record_of
from kasbah.serving.housekeeping.sites import Reached, all_sites, reach
from kasbah.serving.models import LOST_AFTER, UNHEARD, Job, Worker, WorkerState
from kasbah.serving.services.events import event

WRITTEN_EVERY = timedelta(seconds=5)  # a row whose worker says nothing new
COUNT = 500

logger = logging.getLogger(__name__)


def collect() -> Counter[str]:
    """One tick over all sites. Answers what was heard, by kind."""
    egress.tell()
    heard: Counter[str] = Counter()
    for site in all_sites():
        with reach(site) as reached:
            found = Look(broker=brokers.state(reached))
            try:
                found = replace(_collect_site(reached, heard), broker=found.broker)
            except StoreAway as error:
                heard["sites away"] += 1
                found = replace(found, store=type(error.__cause__ or error).__name__)
        if note_health(site, found):
            logger.warning("Site %s is %s (broker %s, store %s)", site.slug, found.life, found.broker, found.store)
    keyturn.turn_signing_keys()
    return heard


def _collect_site(reached: Reached, heard: Counter[str]) -> Look:
    heard += _read_stream(reached)
    workers = _workers(reached.site)
    tokens = reached.store.values([keys.worker(str(worker.id)) for worker in workers])
    reports = []
    for worker, token in zip(workers, tokens, strict=True):
        report = _believed(worker, token)
        if report is not None:
            heard["reports"] += 1
            take_report(worker, report)
            reports.append(report)
        else:
            notice_silence(worker)
    keyturn.turn_site_keys(reached.site, workers)
    assignments.write(reached, workers)
    served = [each for report in reports for each in report.served if each.state == "ready"]
    takes = [each for report in reports if report.state == "active" for each in report.served if each.state == "ready"]
    return Look(
        workers=len(workers),
        alive=len(reports),
        capacity=sum(each.capacity for each in takes),
        running=sum(each.running for each in served),
    )


def _workers(site: Site) -> list[Worker]:
    """Those that were approved and not revoked: nobody else is heard or told anything."""
    with rls.platform_scope():
        return list(Worker.objects.filter(site=site).exclude(state__in=UNHEARD).prefetch_related("former_keys"))


def _believed(worker: Worker, token: bytes | None) -> Report | None:
    if token is None:
        return None
    try:
        return check_report(record_of(worker), token.decode())
    except (BadToken, UnicodeDecodeError) as error:
        logger.warning("The report of worker %s is not believed: %s", worker.id, error)
        return None


def take_report(worker: Worker, report: Report) -> None:
    """Write what a worker says of itself; one that was lost is back."""
    now = timezone.now()
    said: dict[str, Any] = {
        "served": msgspec.to_builtins(report.served),
        "hardware": report.hardware,
        "engine": report.engine[:60],
        "start": report.start[:32],
        "answered": workers_egress.count(report.answered),
        "refused": report.refused,
        "stale_writes": report.stale,
        "egress_refused": workers_egress.count(report.egress_refused),
        "egress": workers_egress.sound(report.egress),
        "trusted_keys": report.trusts[:20],
        "held_keys": report.opens[:20],
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


def _read_stream(reached: Reached) -> Counter[str]:
    """Take what lies in the stream of reports; an entry is removed once it is dealt with, so none is missed."""
    heard: Counter[str] = Counter()
    entries = reached.store.entries(keys.REPORTS, COUNT)
    for _, fields in entries:
        for name, value in fields.items():
            kind = name.decode("ascii", "replace")
            heard[kind] += 1
            try:
                _take(reached, kind, value)
            except (BadToken, ValueError) as error:  # a broker is not trusted: bad entries are expected
                heard["not believed"] += 1
                logger.warning("An entry (%s) of the reports of site %s is refused: %s", kind, reached.site.slug, error)
    reached.store.remove(keys.REPORTS, [entry for entry, _ in entries])
    return heard


def _take(reached: Reached, kind: str, value: bytes) -> None:
    if kind == keys.ENROL:
        enrol.answer(reached, value)
    elif kind == keys.KEY_CHANGE:
        identities.take_change(reached.site, value.decode())
    elif kind == keys.REFUSAL:
        take_refusal(reached, value.decode())
    elif kind != keys.REPORT:  # liveness keys say the same, and later
        raise BadToken("an entry of no known kind")


def take_refusal(reached: Reached, token: str) -> None:
    """Record that a worker would not run a job, and let its dispatcher or the sweeper see it. Raises BadToken."""
    known = receipts.keys_of({worker.id: record_of(worker) for worker in _workers(reached.site)})
    signer, public_key = receipts.signer_of(token, known)
    refusal = checked(Verifier.from_raw(public_key), Purpose.REPORT, token, Refusal)
    if refusal.worker != str(signer.id) or refusal.site != str(reached.site.id):
        raise BadToken("the refusal names another worker or site")
    code = refusal.code if refusal.code in set(RefusalCode) else "unknown"
    with rls.platform_scope():
        job_id = _uuid(refusal.job)
        job = Job.objects.filter(pk=job_id).only("tenant_id").first() if job_id else None
        record(
            event(
                EventType.INFERENCE_REFUSED,
                system("housekeeping"),
                Resource("job", str(job.id) if job else ""),
                tenant=job.tenant_id if job else None,
                site=refusal.site,
                worker=refusal.worker,
                reason=code,
                outcome=Outcome.DENIED,
                attempt=refusal.attempt,
            )
        )
    if job is not None and code != RefusalCode.REPLAYED:
        reached.store.run(REFUSE, [((keys.job(str(job.id)),), (refusal.attempt, code))])


def _uuid(text: str) -> UUID | None:
    """None where a worker could not even read the job's id."""
    try:
        return UUID(text)
    except ValueError:
        return None
