"""Tickets: the control plane's signed permission to run one attempt of a job. Receipts: a worker's signed answer.

Both travel over brokers that are not trusted, so every claim is checked against a signature before it is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from inference_worker.contract import messages
from inference_worker.contract.messages import Receipt, Ticket, checked, sha256_hex, signed
from inference_worker.contract.signing import BadToken, Purpose, Signer, Verifier, unb64

LIFETIME = 600  # seconds
CLOCK_SKEW = 60  # seconds by which the clocks of two machines may differ


def issue(
    signer: Signer,
    *,
    job: UUID,
    attempt: int,
    tenant: UUID,
    deployment: UUID,
    policy: str,
    data_class: str,
    sites: Sequence[UUID | str],
    model_digest: str,
    payload: bytes,
    now: int | None = None,
) -> str:
    """The signed ticket of one attempt, good for ten minutes.

    `policy`, `data_class` and `sites` are those of the Decision; `payload` is the sealed payload as it is sent.
    Raises ValueError when there is no policy or site: nothing may run by default.
    """
    if not policy or not sites:
        raise ValueError("a ticket needs the policy that allows the job and at least one compliant site")
    issued = messages.now() if now is None else now
    ticket = Ticket(
        job=str(job),
        attempt=attempt,
        tenant=str(tenant),
        deployment=str(deployment),
        policy=policy,
        data_class=data_class,
        sites=[str(site) for site in sites],
        model_digest=model_digest,
        payload_sha256=sha256_hex(payload),
        issued=issued,
        expires=issued + LIFETIME,
    )
    return signed(signer, Purpose.TICKET, ticket)


def verify(token: str, believed: Verifier, *, now: int | None = None) -> Ticket:
    """The ticket of a token that a believed key signed and that is valid now. Raises BadToken."""
    ticket = _ticket(token, believed)
    moment = messages.now() if now is None else now
    if moment >= ticket.expires:
        raise BadToken(f"the ticket expired {moment - ticket.expires} s ago")
    if moment < ticket.issued - CLOCK_SKEW:
        raise BadToken("the ticket was issued in the future; compare the clocks of the machines")
    return ticket


def verify_receipt(token: str, worker_public_key: bytes, *, ticket: str | None = None) -> Receipt:
    """The receipt of a token that holds under the worker's raw Ed25519 key. Raises BadToken.

    With the token of the `ticket`, the receipt must also be about that very ticket and keep to it. The ticket's own
    signature is not asked again: its digest is the one that the caller kept, of a ticket that he issued.
    """
    receipt = checked(Verifier.from_raw(worker_public_key), Purpose.RECEIPT, token, Receipt)
    if receipt.version != 1:
        raise BadToken(f"receipt version {receipt.version} is not known here")
    if ticket is not None:
        _keeps_to(receipt, ticket)
    return receipt


def _keeps_to(receipt: Receipt, token: str) -> None:
    ticket = _read(token)
    if receipt.ticket_sha256 != sha256_hex(token):
        raise BadToken("the receipt is about another ticket")
    for name in ("job", "attempt", "tenant", "policy", "model_digest"):
        if getattr(receipt, name) != getattr(ticket, name):
            raise BadToken(f"the receipt's {name} is not the ticket's")
    if receipt.site not in ticket.sites:
        raise BadToken(f"the receipt is from site {receipt.site}, which the ticket does not allow")
    if not ticket.issued - CLOCK_SKEW <= _seconds(receipt.started) <= ticket.expires + CLOCK_SKEW:
        raise BadToken("the receipt is about a time for which the ticket was not")


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError as error:
        raise BadToken("the receipt's time is none") from error


def _read(token: str) -> Ticket:
    """What a ticket says, without asking who signed it."""
    try:
        return msgspec.json.decode(unb64(token.split(".")[1]), type=Ticket)
    except (IndexError, msgspec.MsgspecError) as error:
        raise BadToken("the ticket that was kept is none") from error


def _ticket(token: str, believed: Verifier) -> Ticket:
    ticket = checked(believed, Purpose.TICKET, token, Ticket)
    if ticket.version != 1:
        raise BadToken(f"ticket version {ticket.version} is not known here")
    return ticket
