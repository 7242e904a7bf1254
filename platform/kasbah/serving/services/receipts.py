"""The signed receipt of a request, for those who may read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from inference_worker.contract.signing import BadToken, Purpose, Verifier, b64, key_id
from kasbah.audit.services import receipts as audit_receipts
from kasbah.common import rls
from kasbah.common.errors import NotFound
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.services import control_keys, tickets
from kasbah.serving.models import Job, Worker


def find_receipt(actor: Actor, request_id: str, *, tenant_id: UUID | None = None) -> dict[str, Any] | None:
    """What proves where and by what a request was processed; None where there is none or it is not for this actor.

    Keys: request_id, job, purpose, receipt and ticket (the tokens), checks, claims, site, worker, control_plane_keys
    (base64url by key id). `tenant_id`: only of this tenant. What does not hold is shown with the check that fails: an
    altered receipt must not hide itself. Raises Forbidden.
    """
    with rls.platform_scope():
        jobs = Job.objects.filter(request_id=request_id)
        jobs = jobs if tenant_id is None else jobs.filter(tenant_id=tenant_id)
        job = jobs.select_related("site").defer("payload").first()
        worker = Worker.objects.filter(pk=job.worker_id).first() if job and job.worker_id else None
        former = list(worker.former_keys.all()) if worker else []
    if job is None or worker is None or job.site is None or not job.receipt:
        return None
    try:
        require(actor, Permission.RECEIPT_READ, job.tenant_id)
    except NotFound:
        return None  # the same answer as for one that does not exist
    keys: list[tuple[bytes, datetime | None]] = [(bytes(row.public_key), row.valid_until) for row in former]
    own = {key_id(key): (key, until) for key, until in [*keys, (bytes(worker.public_key), None)]}
    # Of a signer that is not known the worker's present key is shown; it checks nothing, and `checks` says so.
    public_key, until = own.get(job.receipt.partition(".")[0], (bytes(worker.public_key), None))
    published = (*control_keys().published, audit_receipts.signer().public.public_bytes_raw())
    checks, claims = _checked(job, worker, public_key, published)
    return {
        "request_id": request_id,
        "job": job.id,
        "purpose": Purpose.RECEIPT.value,
        "receipt": job.receipt,
        "ticket": job.ticket,
        "checks": checks,
        "claims": claims,
        "site": {"id": job.site.id, "slug": job.site.slug, "jurisdiction": job.site.jurisdiction},
        "worker": {"id": worker.id, "name": worker.name, "public_key": b64(public_key), "key_valid_until": until},
        "control_plane_keys": {key_id(key): b64(key) for key in published},
    }


def _checked(
    job: Job, worker: Worker, public_key: bytes, published: Sequence[bytes]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each check by its name, and what a receipt whose signature holds says; {} of one whose does not."""
    claims: dict[str, Any] = {}

    def receipt_signature() -> None:
        claims.update(Verifier.from_raw(public_key).verify(Purpose.RECEIPT, job.receipt))

    def ticket_signature() -> None:
        if not job.ticket:
            raise BadToken("no ticket was kept with this request")
        Verifier.from_raw(*published).verify(Purpose.TICKET, job.ticket)

    def receipt_keeps_to_ticket() -> None:
        tickets.verify_receipt(job.receipt, public_key, ticket=job.ticket)

    def receipt_of_this_request() -> None:
        told = [claims.get(name) for name in ("job", "tenant", "site", "worker")]
        if told != [str(one) for one in (job.id, job.tenant_id, job.site_id, worker.id)]:
            raise BadToken("it is about another job, tenant, site or worker")

    checks = []
    for check in (receipt_signature, ticket_signature, receipt_keeps_to_ticket, receipt_of_this_request):
        try:
            check()
            reason = ""
        except ValueError as error:  # BadToken is one
            reason = str(error)
        checks.append({"name": check.__name__, "holds": not reason, "reason": reason})
    return checks, claims
