"""A worker's receipt, believed only when an enrolled worker of the right site signed it about this very attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from inference_worker.contract.messages import Receipt
from inference_worker.contract.signing import BadToken, key_id
from kasbah.residency.services import tickets
from kasbah.serving.records import WorkerRecord


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a receipt must be about; `ticket` is the token of that attempt."""

    job: UUID
    attempt: int
    tenant: UUID
    policy: str
    site: UUID
    ticket: str


class UnknownWorker(BadToken):
    """Signed by a key that is not (or not yet) known here."""


def keys_of(workers: Mapping[UUID, WorkerRecord]) -> dict[str, WorkerRecord]:
    """Workers by the id of their signing key."""
    return {key_id(Ed25519PublicKey.from_public_bytes(worker.public_key)): worker for worker in workers.values()}


def check(token: str, about: Attempt, workers: Mapping[str, WorkerRecord]) -> Receipt:
    """The receipt of `token`; `workers` by key id. Raises BadToken."""
    worker = workers.get(token.partition(".")[0])
    if worker is None:
        raise UnknownWorker("the receipt is signed by no worker known here")
    # The ticket ties the receipt to the model's digest, the payload and the time too.
    receipt = tickets.verify_receipt(token, worker.public_key, ticket=about.ticket)
    said = (receipt.job, receipt.attempt, receipt.tenant, receipt.policy, receipt.site, receipt.worker)
    meant = (str(about.job), about.attempt, str(about.tenant), about.policy, str(about.site), str(worker.id))
    if said != meant or worker.site_id != about.site:
        raise BadToken("the receipt is about another job, attempt, policy, site or worker")
    return receipt
