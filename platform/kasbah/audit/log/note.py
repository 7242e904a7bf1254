"""Signed notes (C2SP signed-note) and checkpoints (tlog-checkpoint), with cosignatures of witnesses (tlog-cosignature).

A note is a text that ends with a line break, an empty line, and signature lines `\u2014 NAME BASE64`, where the base64
holds the 4-byte key id and the signature.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kasbah.audit.log.merkle import HASH
from kasbah.common.numbers import LARGEST_SIZE, whole_number

ED25519, COSIGNATURE = 0x01, 0x04  # signature types
DASH = "\u2014 "
MAX_SIGNATURES = 64
MAX_NOTE = 1024 * 1024  # bytes


class BadNote(ValueError):
    """The note is malformed, or no signature that counts holds."""


@dataclass(frozen=True, slots=True)
class Key:
    """A verifier's key: `kind` is ED25519 (a log) or COSIGNATURE (a witness), `public` raw."""

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        if not self.name or any(char.isspace() or char == "+" for char in self.name):
            raise BadNote("a key's name has no spaces and no plus")
        if self.kind not in (ED25519, COSIGNATURE) or len(self.public) != HASH:
            raise BadNote(f"{self.name}: only Ed25519 keys of 32 bytes are known here")

    @property
    def id(self) -> bytes:
        """Four bytes that name the key beside its name."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def vkey(self) -> str:
        """`NAME+HEX+BASE64`, as verifiers are configured."""
        material = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{material}"

    @classmethod
    def parse(cls, vkey: str) -> Key:
        """Read a vkey. Raises BadNote."""
        parts = vkey.strip().split("+", 2)
        try:
            name, key_id, material = parts
            raw = base64.b64decode(material, validate=True)
            key = cls(name, raw[0], raw[1:])
            found = key.id.hex()
        except (ValueError, IndexError) as error:
            raise BadNote(f"not a verifier key (NAME+ID+KEY): {vkey[:100]}") from error
        if found != key_id:
            raise BadNote(f"{name}: the key's id is not that of the key")
        return key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name, its 4-byte id, and what follows it."""

    name: str
    id: bytes
    value: bytes

    def line(self) -> str:
        """As it stands in a note."""
        return f"{DASH}{self.name} {base64.b64encode(self.id + self.value).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note; `text` ends with a line break. Nothing is verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: str) -> Note:
        """Take a note apart. Raises BadNote."""
        if len(data) > MAX_NOTE or any(ord(char) < 0x20 and char != "\n" for char in data):
            raise BadNote("a note is text of at most 1 MiB without control characters")
        at = data.rfind("\n\n")
        if at < 0 or not data.endswith("\n"):
            raise BadNote("a note has a text, an empty line and signatures")
        lines = data[at + 2 :].split("\n")[:-1]
        if not 0 < len(lines) <= MAX_SIGNATURES:
            raise BadNote(f"a note has 1 to {MAX_SIGNATURES} signatures")
        return cls(data[: at + 1], tuple(_signature(line) for line in lines))

    def verified(self, keys: Iterable[Key]) -> dict[Key, int]:
        """The keys whose signature holds, each once, with the time of a cosignature in seconds (else 0).

        Raises BadNote when a signature of one of `keys` does not hold; unknown keys are passed over.
        """
        known = {(key.name, key.id): key for key in keys}
        found: dict[Key, int] = {}
        for signature in self.signatures:
            key = known.get((signature.name, signature.id))
            if key is not None and key not in found:
                found[key] = _check(self.text, key, signature)
        return found

    def __str__(self) -> str:
        return self.text + "\n" + "".join(signature.line() for signature in self.signatures)


def sign(text: str, key: Key, private: Callable[[bytes], bytes], *, time: int = 0) -> Signature:
    """Sign `text`; `private` makes the Ed25519 signature. A cosignature (tlog-cosignature) says at which second."""
    value = private(_message(text, key, time))
    return Signature(key.name, key.id, (time.to_bytes(8, "big") if key.kind == COSIGNATURE else b"") + value)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log's note says: its origin, its size and the root of its tree."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note's text; extension lines are let pass. Raises BadNote."""
        lines = text.split("\n")
        if len(lines) < 4 or not lines[0] or lines[-1] or any(not line for line in lines[3:-1]):
            raise BadNote("a checkpoint has origin, size and root on three lines")
        size = whole_number(lines[1], 0, LARGEST_SIZE)
        try:
            root = base64.b64decode(lines[2], validate=True)
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII raise another
            raise BadNote("the root of a checkpoint is base64") from error
        if size is None or len(root) != HASH:
            raise BadNote("a checkpoint has a decimal size, of at most 2^53-1, and a root of 32 bytes")
        return cls(lines[0], size, root)


def lines_of(hashes: Sequence[bytes]) -> list[str]:
    """Hashes in base64, as the C2SP formats have them."""
    return [base64.b64encode(one).decode() for one in hashes]


def tlog_proof(index: int, hashes: Sequence[bytes], checkpoint: str) -> str:
    """The content of a `.tlog-proof` file (C2SP tlog-proof): the event at `index` is in the tree of `checkpoint`."""
    return "\n".join(["c2sp.org/tlog-proof@v1", f"index {index}", *lines_of(hashes)]) + "\n\n" + checkpoint


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(DASH).partition(" ")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError:
        raw = b""
    if not line.startswith(DASH) or not name or len(raw) < 5:
        raise BadNote("a signature line is an em dash, a name and base64")
    return Signature(name, raw[:4], raw[4:])


def _check(text: str, key: Key, signature: Signature) -> int:
    value, time = signature.value, 0
    if key.kind == COSIGNATURE:
        time, value = int.from_bytes(value[:8], "big"), value[8:]
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(value, _message(text, key, time))
    except InvalidSignature as error:
        raise BadNote(f"the signature of {key.name} does not hold") from error
    return time


def _message(text: str, key: Key, time: int) -> bytes:
    head = f"cosignature/v1\ntime {time}\n" if key.kind == COSIGNATURE else ""
    return (head + text).encode()
