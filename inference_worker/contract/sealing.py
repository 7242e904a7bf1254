"""Sealing: what passes a broker is ciphertext to the broker, its disk and its backups.

A payload is encrypted once with AES-256-GCM under a random content key, which is wrapped for each compliant
site with HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM); the wrap says which of the site's keys opens it. A site's
private keys reach its workers sealed in the same way, each for the worker's own key. Frames of an answer are sealed
with AES-256-GCM under a key derived (HKDF, RFC 5869) from the job's reply secret and the attempt, bound to their
sequence number, so frames cannot be reordered, replayed or moved to another attempt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from inference_worker.contract.signing import key_id

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
NONCE = 12


class CannotOpen(ValueError):
    """The ciphertext was altered, is for another recipient, or belongs to another job, attempt or place."""


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """A sealed payload: `wraps` maps a site's id to its key's id and the content key wrapped for that key."""

    nonce: bytes
    ciphertext: bytes
    wraps: dict[str, tuple[str, bytes]]


def derive(secret: bytes, info: str) -> bytes:
    """32 bytes by HKDF-SHA256 without salt; `info` separates purposes."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info.encode()).derive(secret)


def seal_payload(plaintext: bytes, *, job: str, sites: Mapping[str, X25519PublicKey]) -> bytes:
    """Seal `plaintext` for each of `sites`; `job` is bound as associated data. Returns msgpack of Sealed."""
    key, nonce, context = os.urandom(32), os.urandom(NONCE), f"kasbah-payload-v1:{job}".encode()
    wraps = {
        site: (key_id(public.public_bytes_raw()), SUITE.encrypt(key, public, info=context))
        for site, public in sites.items()
    }
    return msgspec.msgpack.encode(Sealed(nonce, AESGCM(key).encrypt(nonce, plaintext, context), wraps))


def open_payload(sealed: bytes, *, job: str, site: str, private: Mapping[str, X25519PrivateKey]) -> bytes:
    """Open what was sealed for `site`; `private` are the site's keys by id. Raises CannotOpen."""
    context = f"kasbah-payload-v1:{job}".encode()
    try:
        box = msgspec.msgpack.decode(sealed, type=Sealed)
        name, wrapped = box.wraps[site]
        key = SUITE.decrypt(wrapped, private[name], info=context)
        return AESGCM(key).decrypt(box.nonce, box.ciphertext, context)
    except KeyError as error:
        raise CannotOpen(f"the payload is not sealed for site {site}, or for a key that is not here") from error
    except (InvalidTag, ValueError) as error:  # msgspec's errors are ValueErrors
        raise CannotOpen("the payload was altered or is for another job or key") from error


def seal_site_key(private: X25519PrivateKey, *, worker: str, site: str, box_key: X25519PublicKey) -> tuple[str, bytes]:
    """A site's private key, for one worker of it alone: the key's id and the sealed bytes."""
    name = key_id(private.public_key().public_bytes_raw())
    return name, SUITE.encrypt(private.private_bytes_raw(), box_key, info=_site_key(worker, site, name))


def open_site_key(sealed: bytes, *, worker: str, site: str, name: str, box_key: X25519PrivateKey) -> X25519PrivateKey:
    """The reverse of `seal_site_key`. Raises CannotOpen."""
    try:
        raw = SUITE.decrypt(sealed, box_key, info=_site_key(worker, site, name))
        private = X25519PrivateKey.from_private_bytes(raw)
    except (InvalidTag, ValueError) as error:
        raise CannotOpen(f"the site's key {name} is sealed for another worker, or was altered") from error
    if key_id(private.public_key().public_bytes_raw()) != name:
        raise CannotOpen(f"what is sealed as the site's key {name} is another key")
    return private


def _site_key(worker: str, site: str, name: str) -> bytes:
    return f"kasbah-site-key-v1:{site}:{worker}:{name}".encode()


def seal_box(key: bytes, plaintext: bytes, context: str) -> bytes:
    """AES-256-GCM with a random nonce in front; `context` (who, where, which column) is associated data."""
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context.encode())


def open_box(key: bytes, box: bytes, context: str) -> bytes:
    """The reverse of `seal_box`. Raises CannotOpen."""
    try:
        return AESGCM(key).decrypt(box[:NONCE], box[NONCE:], context.encode())
    except (InvalidTag, ValueError) as error:
        raise CannotOpen(f"cannot open the box of {context.split(':', maxsplit=1)[0]}") from error


class FrameCipher:
    """Seals and opens the frames of one attempt.

    The nonce is 8 random bytes of this cipher and a counter of its own, so that no nonce is used twice: not when
    frames are sealed again under the same sequence number (a write that was refused), and not when a broker
    makes two workers run the same attempt. The reader accepts the frames of one writer only.
    """

    def __init__(self, reply_secret: bytes, job: str, attempt: int) -> None:
        self._aead = AESGCM(derive(reply_secret, f"kasbah-frames-v1:{attempt}"))
        self._context = f"{job}:{attempt}:"
        self._run = os.urandom(8)
        self._sealed = 0
        self._seen: bytes | None = None

    def seal(self, sequence: int, plaintext: bytes) -> bytes:
        """Seal the frames with this sequence number (0, 1, 2 ...)."""
        nonce = self._run + self._sealed.to_bytes(4, "big")
        self._sealed += 1
        return nonce + self._aead.encrypt(nonce, plaintext, f"{self._context}{sequence}".encode())

    def open(self, sequence: int, sealed: bytes) -> bytes:
        """Open the frames that were sealed under this sequence number. Raises CannotOpen."""
        nonce, ciphertext = sealed[:NONCE], sealed[NONCE:]
        if self._seen is not None and nonce[:8] != self._seen:
            raise CannotOpen(f"frame {sequence} comes from another run of this attempt")
        try:
            plaintext = self._aead.decrypt(nonce, ciphertext, f"{self._context}{sequence}".encode())
        except (InvalidTag, ValueError) as error:
            raise CannotOpen(f"frame {sequence} was altered or belongs to another attempt") from error
        self._seen = nonce[:8]
        return plaintext
