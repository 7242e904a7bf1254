"""A worker's receipt, believed only when an enrolled worker of the right site signed it about this very attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

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
    """Workers by the ids of the keys under which they may sign now; ask `signer_of`, for that passes."""
    return {key_id(key): worker for worker in workers.values() for key in worker.valid_keys()}


def signer_of(token: str, workers: Mapping[str, WorkerRecord]) -> tuple[WorkerRecord, bytes]:
    """The worker that may have signed `token`, and its raw public key. Raises UnknownWorker."""
    name = token.partition(".")[0]
    if (worker := workers.get(name)) is not None:
        for key in worker.valid_keys():
            if key_id(key) == name:
                return worker, key
    raise UnknownWorker("signed by no worker known here, or by a key that it has replaced")


def check(token: str, about: Attempt, workers: Mapping[str, WorkerRecord]) -> Receipt:
    """The receipt of `token`; `workers` by key id. Raises BadToken."""
    worker, public_key = signer_of(token, workers)
    # The ticket ties the receipt to the model's digest, the payload and the time too.
    receipt = tickets.verify_receipt(token, public_key, ticket=about.ticket)
    said = (receipt.job, receipt.attempt, receipt.tenant, receipt.policy, receipt.site, receipt.worker)
    meant = (str(about.job), about.attempt, str(about.tenant), about.policy, str(about.site), str(worker.id))
    if said != meant or worker.site_id != about.site:
        raise BadToken("the receipt is about another job, attempt, policy, site or worker")
    return receipt
