"""A worker that signs receipts, and what a ticket of these tests says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract.messages import Receipt, sha256_hex
from inference_worker.contract.signing import Purpose, Signer, unb64

CONTROL = Signer(Ed25519PrivateKey.generate())  # the control plane's
SITE = UUID("0190a5d0-0000-7000-8000-000000000001")
OTHER_SITE = UUID("0190a5d0-0000-7000-8000-000000000002")
TICKET: dict[str, Any] = {
    "job": UUID("0190a5d0-0000-7000-8000-000000000003"),
    "attempt": 1,
    "tenant": UUID("0190a5d0-0000-7000-8000-000000000004"),
    "deployment": UUID("0190a5d0-0000-7000-8000-000000000005"),
    "policy": "0190a5d0-0000-7000-8000-000000000006@3",
    "data_class": "internal",
    "sites": [SITE],
    "model_digest": sha256_hex("weights"),
    "payload": b"sealed",
}


def issued(ticket: str) -> int:
    """When the ticket was issued; any time for what is none."""
    parts = ticket.split(".")
    return int(msgspec.json.decode(unb64(parts[1])).get("issued", 1_795_420_800)) if len(parts) == 3 else 1_795_420_800


@dataclass(frozen=True)
class Worker:
    """The receipts of one worker."""

    signer: Signer = field(default_factory=lambda: Signer(Ed25519PrivateKey.generate()))

    @property
    def key(self) -> bytes:
        """Raw public key."""
        return self.signer.public.public_bytes_raw()

    def fields(self, ticket: str, **changed: Any) -> dict[str, Any]:
        """What an honest receipt about `ticket` says, but for `changed`."""
        second = datetime.fromtimestamp(issued(ticket), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        receipt = Receipt(
            job=str(TICKET["job"]),
            attempt=1,
            tenant=str(TICKET["tenant"]),
            ticket_sha256=sha256_hex(ticket),
            policy=TICKET["policy"],
            site=str(SITE),
            worker="0190a5d0-0000-7000-8000-000000000007",
            engine="vllm 0.32.0",
            model_digest=TICKET["model_digest"],
            prompt_tokens=12,
            completion_tokens=34,
            output_commitment=sha256_hex("output"),
            outcome="succeeded",
            started=f"{second}.000001Z",
            finished=f"{second}.900000Z",
        )
        return {**msgspec.to_builtins(receipt), **changed}

    def receipt(self, ticket: str, purpose: Purpose = Purpose.RECEIPT, **changed: Any) -> str:
        """The signed receipt."""
        return self.signer.sign(purpose, self.fields(ticket, **changed))
