"""Jobs that no web process waits for: offered at once, looked after and settled by the sweeper."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from django.db import connection, transaction

from inference_worker.contract import sealing
from inference_worker.contract.messages import Payload
from inference_worker.contract.signing import Signer
from kasbah.audit.services import ActorRef, Event, EventType, Outcome, Policy, Resource, record
from kasbah.common import rls
from kasbah.common.ids import uuid7
from kasbah.residency.models import Site
from kasbah.residency.services import control_keys, tickets
from kasbah.serving.housekeeping.offering import BACKGROUND, BACKGROUND_LOOK, offer, ready_sites
from kasbah.serving.records import JobRequest, NewJob
from kasbah.serving.replysecret import reply_secret
from kasbah.serving.rows import INSERT, insert_parameters


def submit_background(requests: Sequence[JobRequest]) -> list[UUID]:
    """Commit jobs with their intents and offer them. Answers their ids, in order.

    Policy and limits are the caller's to ask, as for the gateway. A site that is away gets them from the sweeper.
    """
    with rls.platform_scope():
        keys = {
            site.id: X25519PublicKey.from_public_bytes(bytes(site.sealing_public_key)) for site in Site.objects.all()
        }
    ready = ready_sites()
    if not requests:
        return []
    signer = control_keys().current
    jobs = [_new(request, keys, ready, signer) for request in requests]
    with rls.platform_scope():
        with connection.cursor() as cursor:
            cursor.execute(INSERT, insert_parameters(jobs, BACKGROUND_LOOK))
        for job in jobs:
            record(_intent(job))
        transaction.on_commit(lambda: offer([job.id for job in jobs]))
    return [job.id for job in jobs]


def _new(
    request: JobRequest, keys: dict[UUID, X25519PublicKey], ready: dict[UUID, set[UUID]], signer: Signer
) -> NewJob:
    job_id = uuid7()
    payload = Payload(path=request.endpoint, body=request.body, stream=False, reply_secret=reply_secret(job_id))
    sealed = sealing.seal_payload(
        msgspec.msgpack.encode(payload), job=str(job_id), sites={str(site): keys[site] for site in request.sites}
    )
    serving = ready.get(request.deployment_id, set())
    site = next((site for site in request.sites if site in serving), request.sites[0])
    given = {name: getattr(request, name) for name in JobRequest.__slots__ if name not in {"body", "stream"}}
    ticket = tickets.issue(
        signer,
        job=job_id,
        attempt=1,
        tenant=request.tenant_id,
        deployment=request.deployment_id,
        policy=request.policy,
        data_class=request.data_class,
        sites=request.sites,
        model_digest=request.model_digest,
        payload=sealed,
    )
    return NewJob(id=job_id, site=site, owner=BACKGROUND, payload=sealed, ticket=ticket, stream=False, **given)


def _intent(job: NewJob) -> Event:
    policy, _, version = job.policy.rpartition("@")
    return Event(
        type=EventType.INFERENCE_INTENT,
        tenant_id=job.tenant_id,
        actor=ActorRef("api_key", str(job.api_key_id), "api_key"),
        outcome=Outcome.PENDING,
        resource=Resource("job", str(job.id)),
        request_id=job.request_id,
        policy=Policy(policy, int(version or 0), "allow"),
        site=str(job.site),
        details={"data_class": job.data_class, "endpoint": job.endpoint, "background": True},
    )
