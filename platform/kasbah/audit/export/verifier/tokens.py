"""Signed tokens `key id . payload . signature`, each base64url without padding: receipts and tickets."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from kasbah.audit.export.verifier.documents import read_json
from kasbah.audit.export.verifier.ed25519 import ed25519_holds
from kasbah.audit.export.verifier.failure import Facts, Failed

AUDIT_RECEIPT = "kasbah-audit-receipt-v1"  # what a signature is for
WORKERS_RECEIPT = "kasbah-receipt-v1"
TICKET = "kasbah-ticket-v1"


def key_name(public: bytes) -> str:
    """How a token names the key that signed it."""
    return hashlib.sha256(public).hexdigest()[:16]


def read_token(token: str, purpose: str, keys: list[bytes]) -> Facts:
    """What a token says that one of the raw public `keys` signed for this purpose. Raises Failed: receipt_malformed,
    unknown_key or signature_invalid."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Failed("receipt_malformed", f"not three parts separated by dots: {token[:60]!r}")
    signer, payload, signature = parts[0], read_base64url(parts[1]), read_base64url(parts[2])
    public = {key_name(key): key for key in keys}.get(signer)
    if public is None:
        raise Failed("unknown_key", "it is signed by none of the keys that are known")
    if not ed25519_holds(public, purpose.encode() + b"\n" + payload, signature):
        raise Failed("signature_invalid", "its signature does not hold")
    try:
        said: Any = read_json(payload, "its payload")
    except Failed as failure:
        raise Failed("receipt_malformed", str(failure)) from failure
    if not isinstance(said, dict):
        raise Failed("receipt_malformed", "its payload is not an object")
    return said


def read_base64url(text: str) -> bytes:
    """base64url without padding, in its one spelling."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise Failed("receipt_malformed", f"not base64url: {text[:60]!r}") from error
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise Failed("receipt_malformed", "not written as base64url writes it")
    return raw
