"""Ed25519 (RFC 8032) tokens: `key id . payload . signature`, each base64url without padding.

The algorithm is fixed and the purpose is part of what is signed, so a token made for one purpose
verifies for no other, and there is nothing to downgrade.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from inference_worker.contract import canonical


class Purpose(StrEnum):
    """What a signature is for; its text is prefixed to the signed bytes."""

    TICKET = "kasbah-ticket-v1"
    RECEIPT = "kasbah-receipt-v1"
    REPORT = "kasbah-report-v1"
    ASSIGNMENT = "kasbah-assignment-v1"
    IDENTITY = "kasbah-identity-v1"
    AUDIT = "kasbah-audit-receipt-v1"


class BadToken(ValueError):
    """The token is malformed, signed by an unknown key, altered, or made for another purpose."""


def b64(data: bytes) -> str:
    """base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    """The reverse of `b64`. A second spelling of the same bytes is refused, so that a token has one digest.

    Raises BadToken.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken(f"not base64url: {error}") from error
    if b64(raw) != text:
        raise BadToken("not base64url as it must be written")
    return raw


def key_id(public: bytes) -> str:
    """First 16 hex digits of the SHA-256 of a raw public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def fingerprint(raw: bytes) -> str:
    """Of a raw public key, for people to compare: the first 128 bits of its SHA-256, as `key_id` begins."""
    digits = hashlib.sha256(raw).hexdigest()[:32]
    return ":".join(digits[i : i + 4] for i in range(0, 32, 4))


class Signer:
    """Signs canonical JSON payloads with one Ed25519 key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.key_id = key_id(self.public.public_bytes_raw())

    @classmethod
    def from_raw(cls, raw: bytes) -> Signer:
        """From the 32 raw bytes of the private key."""
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    def sign_bytes(self, message: bytes) -> bytes:
        """The bare signature of `message`, for formats that others define; they must never look like a token's."""
        return self._private.sign(message)

    def sign(self, purpose: Purpose, payload: Mapping[str, Any]) -> str:
        """The signed token of `payload`."""
        body = canonical.dumps(dict(payload))
        signature = self._private.sign(purpose.encode() + b"\n" + body)
        return f"{self.key_id}.{b64(body)}.{b64(signature)}"


class Verifier:
    """Checks tokens against a set of trusted public keys."""

    def __init__(self, keys: list[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key.public_bytes_raw()): key for key in keys}

    @classmethod
    def from_raw(cls, *raw: bytes) -> Verifier:
        """From the 32 raw bytes of each public key."""
        return cls([Ed25519PublicKey.from_public_bytes(key) for key in raw])

    @property
    def key_ids(self) -> list[str]:
        """Ids of the trusted keys, sorted."""
        return sorted(self._keys)

    def verify(self, purpose: Purpose, token: str) -> dict[str, Any]:
        """The payload of a token whose signature holds. Raises BadToken."""
        parts = token.split(".")
        if len(parts) != 3:
            raise BadToken("a token has three parts separated by dots")
        key = self._keys.get(parts[0])
        if key is None:
            raise BadToken(f"signed by unknown key {parts[0][:16]}")
        body, signature = unb64(parts[1]), unb64(parts[2])
        try:
            key.verify(signature, purpose.encode() + b"\n" + body)
        except InvalidSignature as error:
            raise BadToken("the signature does not hold") from error
        try:
            payload = canonical.loads(body)
        except canonical.NotCanonical as error:
            raise BadToken(f"the payload is not canonical: {error}") from error
        if not isinstance(payload, dict):
            raise BadToken("the payload is not an object")
        return payload
