"""A worker's identity key replaced by a new one: taken when the old and the new key have signed it."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.utils import timezone

from inference_worker.contract.messages import KeyChange, checked
from inference_worker.contract.signing import BadToken, Purpose, Verifier, key_id, unb64
from kasbah.audit.services import EventType, Resource, record
from kasbah.common import rls
from kasbah.identity.services import system
from kasbah.residency.models import Site
from kasbah.serving.models import FormerWorkerKey, Worker, WorkerState
from kasbah.serving.records import WorkerRecord
from kasbah.serving.services.events import event

HANDOVER = timedelta(seconds=30)  # in which the worker learns that its new key counts; the old one still does

logger = logging.getLogger(__name__)


def record_of(worker: Worker) -> WorkerRecord:
    """What is asked when a signature of this worker is checked. Prefetch `former_keys`."""
    now = timezone.now()
    former = tuple(
        (bytes(key.public_key), key.valid_until.timestamp())
        for key in worker.former_keys.all()
        if key.valid_until > now
    )
    return WorkerRecord(worker.id, worker.site_id, worker.name, bytes(worker.public_key), worker.state, former)


def take_change(site: Site, value: str) -> None:
    """Replace a worker's key. The same change a second time does nothing. Raises BadToken."""
    by_old, _, by_new = value.partition(" ")
    with rls.platform_scope():
        worker = _claimed(site, by_old)
        change = _both_signed(worker, by_old, by_new)
        if change is None:
            return
        before, now = bytes(worker.public_key), timezone.now()
        if change.worker != str(worker.id) or change.site != str(site.id):
            raise BadToken("the change of a key names another worker or site")
        new_key, box_key = unb64(change.new_key), unb64(change.box_key)
        if len(new_key) != 32 or len(box_key) != 32 or _known(new_key):
            raise BadToken("the new key is none, or is in use")
        last = worker.former_keys.order_by("valid_until").last()
        since = last.valid_until if last else worker.created_at
        FormerWorkerKey.objects.create(
            worker=worker, public_key=before, valid_from=min(since, now), valid_until=now + HANDOVER
        )
        worker.public_key, worker.box_key, worker.must_rotate = new_key, box_key, False
        worker.save(update_fields=["public_key", "box_key", "must_rotate"])
        kind, resource = EventType.WORKER_KEY_CHANGED, Resource("worker", str(worker.id))
        record(
            event(
                kind,
                system("housekeeping"),
                resource,
                site=str(site.id),
                worker=str(worker.id),
                old_key=key_id(before),
                new_key=key_id(new_key),
            )
        )
    logger.info("Worker %s of site %s signs with key %s from now on", worker.name, site.slug, key_id(new_key))


def _claimed(site: Site, token: str) -> Worker:
    """The worker of this site whose current key the token names, or had been until now."""
    name = token.partition(".")[0]
    for worker in Worker.objects.select_for_update().filter(site=site).exclude(state=WorkerState.REVOKED):
        former = (bytes(key.public_key) for key in worker.former_keys.all())
        if name in {key_id(bytes(worker.public_key)), *map(key_id, former)}:
            return worker
    raise BadToken("a change of a key that no worker of this site has")


def _both_signed(worker: Worker, by_old: str, by_new: str) -> KeyChange | None:
    """The change, when both keys have signed the same; None where it was taken before."""
    current = bytes(worker.public_key)
    signers = [token.partition(".")[0] for token in (by_old, by_new)]
    if signers[1] == key_id(current) != signers[0]:
        return None
    change = checked(Verifier.from_raw(current), Purpose.IDENTITY, by_old, KeyChange)
    if checked(Verifier.from_raw(unb64(change.new_key)), Purpose.IDENTITY, by_new, KeyChange) != change:
        raise BadToken("the old and the new key have signed different changes")
    if change.old_key != key_id(current):
        raise BadToken("the change is of another key")
    return change


def _known(public_key: bytes) -> bool:
    taken = Worker.objects.filter(public_key=public_key).exists()
    return taken or FormerWorkerKey.objects.filter(public_key=public_key).exists()
