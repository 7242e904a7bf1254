"""The signed receipt of a request, for those who may read it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from inference_worker.contract.signing import Purpose, Verifier, b64, key_id
from kasbah.audit.services import receipts as audit_receipts
from kasbah.common import rls
from kasbah.common.errors import NotFound
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.services import control_keys
from kasbah.serving.models import Job, Worker


def find_receipt(actor: Actor, request_id: str) -> dict[str, Any] | None:
    """What proves where and by what a request was processed; None where there is none or it is not for this actor.

    Keys: request_id, job, purpose, receipt and ticket (the tokens), claims, site, worker, control_plane_keys
    (base64url by key id). Raises Forbidden.
    """
    with rls.platform_scope():
        job = Job.objects.select_related("site").defer("payload").filter(request_id=request_id).first()
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
    if (signed_with := job.receipt.partition(".")[0]) not in own:
        return None
    public_key, until = own[signed_with]
    claims = Verifier.from_raw(public_key).verify(Purpose.RECEIPT, job.receipt)
    published = (*control_keys().published, audit_receipts.signer().public.public_bytes_raw())
    return {
        "request_id": request_id,
        "job": job.id,
        "purpose": Purpose.RECEIPT.value,
        "receipt": job.receipt,
        "ticket": job.ticket,
        "claims": claims,
        "site": {"id": job.site.id, "slug": job.site.slug, "jurisdiction": job.site.jurisdiction},
        "worker": {"id": worker.id, "name": worker.name, "public_key": b64(public_key), "key_valid_until": until},
        "control_plane_keys": {key_id(key): b64(key) for key in published},
    }
