"""Attacks on tickets and receipts, at the level of the control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract.messages import Ticket, now, sha256_hex
from inference_worker.contract.signing import BadToken, Purpose, Signer, Verifier, unb64
from kasbah.residency.services import tickets

from .signed import CONTROL, OTHER_SITE, SITE, TICKET, Worker

Issue = Callable[..., str]


def verify(token: str, **now: int) -> Ticket:
    """As the control plane verifies it."""
    return tickets.verify(token, Verifier([CONTROL.public]), **now)


def test_a_ticket_says_what_was_decided_and_lives_ten_minutes(issue: Issue) -> None:
    ticket = verify(issue(now=1000), now=1001)
    assert ticket.sites == [str(SITE)]
    assert ticket.payload_sha256 == sha256_hex(b"sealed")
    assert (ticket.issued, ticket.expires, ticket.policy) == (1000, 1600, TICKET["policy"])


@pytest.mark.parametrize("nothing", [{"sites": []}, {"policy": ""}])
def test_no_ticket_without_policy_or_site(issue: Issue, nothing: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs the policy"):
        issue(**nothing)


def forge(token: str, signer: Signer | None = None, purpose: Purpose = Purpose.TICKET, **changed: Any) -> str:
    """A ticket with other fields, signed by somebody else (the control plane's own key only where given)."""
    payload = {**msgspec.json.decode(unb64(token.split(".")[1])), **changed}
    return (signer or Signer(Ed25519PrivateKey.generate())).sign(purpose, payload)


def test_an_expired_or_future_ticket(issue: Issue) -> None:
    with pytest.raises(BadToken, match="expired 0 s ago"):
        verify(issue(now=1000), now=1600)
    with pytest.raises(BadToken, match="future"):
        verify(issue(now=1000), now=900)
    with pytest.raises(BadToken, match="expired"):
        verify(issue(now=now() - 3600))


def test_a_forged_ticket(issue: Issue) -> None:
    token = issue()
    with pytest.raises(BadToken, match="unknown key"):
        verify(forge(token, sites=[str(OTHER_SITE)]))
    # claiming to be signed by the control plane's key
    body, signature = forge(token, sites=[str(OTHER_SITE)]).split(".")[1:]
    with pytest.raises(BadToken, match="does not hold"):
        verify(f"{token.split('.')[0]}.{body}.{signature}")


@pytest.mark.parametrize("field", [name for name in Ticket.__struct_fields__ if name not in {"version"}])
def test_each_field_of_an_altered_ticket(issue: Issue, field: str) -> None:
    key, body, signature = issue().split(".")
    payload = msgspec.json.decode(unb64(body))
    payload[field] = {int: 7, str: "x", list: [str(OTHER_SITE)]}[type(payload[field])]
    altered = forge(f"{key}.{body}.{signature}", **{field: payload[field]}).split(".")[1]
    with pytest.raises(BadToken, match="does not hold"):
        verify(f"{key}.{altered}.{signature}")


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.TICKET])
def test_a_signature_made_for_another_purpose(issue: Issue, purpose: Purpose) -> None:
    with pytest.raises(BadToken, match="does not hold"):
        verify(forge(issue(), CONTROL, purpose))


@pytest.mark.parametrize(
    "changed",
    [{"version": 2}, {"more": 1}, {"sites": "all"}, {"attempt": "1"}, {"expires": None}],
    ids=["version", "unknown field", "sites", "attempt", "expires"],
)
def test_a_ticket_that_the_key_signed_but_nobody_understands(issue: Issue, changed: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        verify(forge(issue(), CONTROL, **changed))
    assert verify(forge(issue(), CONTROL)), "the control: unchanged, the same way of signing holds"


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "..", "a" * 100_000, "ü.ü.ü"])
def test_text_that_is_no_token(token: str) -> None:
    with pytest.raises(BadToken):
        verify(token)


def test_a_receipt_holds_under_its_worker_and_ticket(issue: Issue, worker: Worker) -> None:
    ticket = issue()
    receipt = tickets.verify_receipt(worker.receipt(ticket), worker.key, ticket=ticket)
    assert (receipt.site, receipt.completion_tokens) == (str(SITE), 34)


def test_a_receipt_of_another_worker(issue: Issue, worker: Worker) -> None:
    with pytest.raises(BadToken, match="unknown key"):
        tickets.verify_receipt(Worker().receipt(issue()), worker.key)
    key = worker.receipt(issue()).split(".")[0]
    with pytest.raises(BadToken, match="does not hold"):
        tickets.verify_receipt(".".join([key, *Worker().receipt(issue()).split(".")[1:]]), worker.key)


def test_a_ticket_is_no_receipt_and_a_report_neither(issue: Issue, worker: Worker) -> None:
    ticket = issue()
    with pytest.raises(BadToken):
        tickets.verify_receipt(ticket, CONTROL.public.public_bytes_raw())
    with pytest.raises(BadToken, match="does not hold"):
        tickets.verify_receipt(worker.receipt(ticket, Purpose.REPORT), worker.key)


MISMATCH = {
    "job": "x",
    "attempt": 2,
    "tenant": "x",
    "policy": "x@1",
    "model_digest": sha256_hex("other weights"),
    "site": str(OTHER_SITE),
    "started": "2026-01-01T00:00:00.000000Z",
    "ticket_sha256": sha256_hex("other ticket"),
}


@pytest.mark.parametrize("field", MISMATCH)
def test_a_receipt_that_does_not_keep_to_its_ticket(issue: Issue, worker: Worker, field: str) -> None:
    ticket = issue()
    token = worker.receipt(ticket, **{field: MISMATCH[field]})
    assert tickets.verify_receipt(token, worker.key), "the control: without the ticket nothing contradicts it"
    with pytest.raises(BadToken):
        tickets.verify_receipt(token, worker.key, ticket=ticket)


def test_a_receipt_swapped_between_two_tickets_of_one_job(issue: Issue, worker: Worker) -> None:
    first, second = issue(payload=b"first"), issue(payload=b"second")
    with pytest.raises(BadToken, match="another ticket"):
        tickets.verify_receipt(worker.receipt(first), worker.key, ticket=second)


def test_a_receipt_of_a_version_to_come(issue: Issue, worker: Worker) -> None:
    with pytest.raises(BadToken, match="version 2"):
        tickets.verify_receipt(worker.receipt(issue(), version=2), worker.key)


@pytest.mark.parametrize("part", [1, 2])
def test_a_token_has_one_spelling(issue: Issue, part: int) -> None:
    """Bits beyond the last byte must not make a second token of the same ticket: receipts name its digest."""
    spelled = issue(payload=b"x").split(".")
    text, letters = spelled[part], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twins = [text[:-1] + letter for letter in letters if letter != text[-1]] + [text + "="]
    assert verify(".".join(spelled))
    for twin in twins:
        with pytest.raises(BadToken):
            verify(".".join([*spelled[:part], twin, *spelled[part + 1 :]]))
