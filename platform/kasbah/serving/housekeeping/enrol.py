"""Enrolment: a one-time token makes a machine a worker of one site."""

from __future__ import annotations

import logging
from uuid import UUID

import msgspec
from django.core.exceptions import ValidationError
from django.utils import timezone

from inference_worker.contract import enrolment, keys
from inference_worker.contract.enrolment import Answer, Envelope, Request
from inference_worker.contract.sealing import CannotOpen
from inference_worker.contract.signing import BadToken, b64, fingerprint, unb64
from kasbah.audit.services import EventType, Outcome, Resource, record
from kasbah.common import rls, sealed
from kasbah.identity.models import SLUG
from kasbah.identity.services import system
from kasbah.residency.services import control_keys
from kasbah.serving.housekeeping.sites import Reached
from kasbah.serving.models import EnrolmentToken, FormerWorkerKey, Worker, WorkerState
from kasbah.serving.services.events import event

ANSWER_TTL = 60
REPLACEABLE = (WorkerState.REVOKED, WorkerState.LOST)


class Refused(Exception):
    """The request was authentic, but is not granted; `code` for the log, the message for who started the worker."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


logger = logging.getLogger(__name__)


def answer(reached: Reached, data: bytes) -> None:
    """Answer one request. Raises BadToken or ValueError when it is not authentic; then nobody is answered."""
    envelope = msgspec.msgpack.decode(data, type=Envelope)
    with rls.platform_scope():
        token = EnrolmentToken.objects.select_for_update().filter(pk=UUID(envelope.token_id)).first()
        if token is None:
            raise BadToken("an enrolment with a token that does not exist")
        secret = _secret(token)
        request = _open(envelope, secret)
        try:
            worker = _enrol(reached, token, request)
        except Refused as refused:
            logger.warning("An enrolment at site %s is refused: %s", reached.site.slug, refused)
            resource = Resource("enrolment_token", str(token.id))
            kind, actor, site = EventType.WORKER_ENROLMENT_REFUSED, system("housekeeping"), str(reached.site.id)
            record(event(kind, actor, resource, site=site, reason=refused.code, outcome=Outcome.DENIED))
            said = Answer(nonce=request.nonce, error=str(refused))
        else:
            waits = worker.state == WorkerState.PENDING
            said = _waits(worker, request) if waits else _granted(reached, worker, request)
    # After the commit: a worker is told only what is so.
    reached.store.put(keys.enrolment_answer(request.nonce), enrolment.seal_answer(secret, said), ANSWER_TTL)


def _secret(token: EnrolmentToken) -> bytes:
    return sealed.unseal(token.secret_sealed, table="serving_enrolmenttoken", row=token.id, column="secret_sealed")


def _open(envelope: Envelope, secret: bytes) -> Request:
    try:
        request = enrolment.open_request(envelope, secret)
    except CannotOpen as error:
        raise BadToken("an enrolment whose seal does not hold") from error
    if request.nonce != envelope.nonce:
        raise BadToken("an enrolment under another nonce")
    return request


def _enrol(reached: Reached, token: EnrolmentToken, request: Request) -> Worker:
    public_key, box_key = unb64(request.public_key), unb64(request.box_key)
    if len(public_key) != 32 or len(box_key) != 32:
        raise Refused("bad_key", "The worker's public keys must be 32 bytes, of Ed25519 and of X25519.")
    if token.site_id != reached.site.id or request.site != reached.site.slug:
        raise Refused("wrong_site", f"The token is not for site {request.site}; ask for a token of this site.")
    if token.used_by is not None:
        if bytes(token.used_by.public_key) == public_key:
            if token.used_by.state == WorkerState.REVOKED:
                raise Refused("revoked", "This worker was rejected or revoked; enrol anew, with an empty state folder.")
            return token.used_by  # it waits for its approval, or the answer was lost on its way
        raise Refused("token_used", "The token has been used; ask for a new one.")
    if token.expires_at < timezone.now():
        raise Refused("token_expired", "The token has expired; ask for a new one.")
    former = FormerWorkerKey.objects.filter(public_key=public_key)
    if Worker.objects.filter(public_key=public_key).exists() or former.exists():
        raise Refused("key_known", "A worker with this key is enrolled already; remove its state folder first.")
    _free_name(reached, request.name)
    worker = Worker.objects.create(
        site=reached.site,
        name=request.name,
        public_key=public_key,
        box_key=box_key,
        state=WorkerState.ENROLLED if token.preapproved else WorkerState.PENDING,
        last_seen_at=timezone.now(),
    )
    token.used_by = worker
    token.save(update_fields=["used_by"])
    record(
        event(
            EventType.WORKER_ENROLLED,
            system("housekeeping"),
            Resource("worker", str(worker.id)),
            site=str(reached.site.id),
            worker=str(worker.id),
            token=str(token.id),
            preapproved=token.preapproved,
            fingerprint=fingerprint(public_key),
        )
    )
    return worker


def _free_name(reached: Reached, name: str) -> None:
    """A machine that was set up again takes its name back from a worker that is revoked or lost."""
    try:
        SLUG(name)
    except ValidationError:
        raise Refused("bad_name", "A worker's name has lower-case letters, digits and hyphens, at most 63.") from None
    holder = Worker.objects.select_for_update().filter(site=reached.site, name=name).first()
    if holder is None:
        return
    if holder.state not in REPLACEABLE:
        raise Refused("name_taken", f"Site {reached.site.slug} has a worker {name} already; choose another --name.")
    holder.name = f"{name[:50]}-{holder.id.hex[-12:]}"
    holder.save(update_fields=["name"])


def _waits(worker: Worker, request: Request) -> Answer:
    """Nothing that a stranger with a stolen token could use."""
    return Answer(nonce=request.nonce, pending=True, worker=str(worker.id))


def _granted(reached: Reached, worker: Worker, request: Request) -> Answer:
    return Answer(
        nonce=request.nonce,
        worker=str(worker.id),
        site=str(reached.site.id),
        control_keys=[b64(key) for key in control_keys().told],
    )
