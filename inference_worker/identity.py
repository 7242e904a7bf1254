"""Who this worker is, kept in a private folder: its own key and what the control plane told it at enrolment."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from inference_worker.contract import enrolment, sealing
from inference_worker.contract.signing import Signer, Verifier, unb64

KEY, NEXT_KEY, IDENTITY = "identity.key", "identity.key.next", "identity.json"
ASSIGNMENT, LOCK = "assignment.json", "lock"


class StateError(RuntimeError):
    """The state folder cannot be used; the message says what to do."""


class _Kept(msgspec.Struct, frozen=True):
    """identity.json; keys raw, base64url."""

    worker: str
    site: str
    site_slug: str
    control_keys: list[str]


class SeenAssignment(msgspec.Struct, frozen=True):
    """The newest assignment that was followed; an older one is refused, over restarts too."""

    revision: int = -1
    issued: int = 0


class Identity(msgspec.Struct):
    """An enrolled worker. Its keys are replaced while it runs (keychange.py); those of the site are never on disk."""

    worker: str
    site: str
    signer: Signer
    box_key: X25519PrivateKey  # opens what the control plane seals for this worker
    control: Verifier
    salt_key: bytes  # of the cache salts
    cache_epoch: int = 0  # goes into the cache salts too: see Assignment
    site_keys: dict[str, X25519PrivateKey] = {}  # by id: open payloads of the site


class State:
    """The folder, made private if it is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise StateError(
                f"cannot use the state folder {folder}: {error.strerror}; give another --state-dir"
            ) from error

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while the worker runs: two workers with one identity would take each other's leases."""
        with (self._folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StateError(
                    f"another worker runs with {self._folder}; stop it or give another --state-dir"
                ) from error
            yield

    def signer(self) -> Signer:
        """The worker's own key, made at the first use. It never leaves this folder."""
        path = self._folder / KEY
        if not path.exists():
            self._write(KEY, Ed25519PrivateKey.generate().private_bytes_raw())
        try:
            return Signer.from_raw(path.read_bytes())
        except ValueError as error:
            raise StateError(f"{path} is damaged; remove {self._folder} and enrol again") from error

    def next_signer(self) -> Signer:
        """The key that is to replace the worker's own, made at the first use and kept until it is adopted."""
        path = self._folder / NEXT_KEY
        if not path.exists():
            self._write(NEXT_KEY, Ed25519PrivateKey.generate().private_bytes_raw())
        return Signer.from_raw(path.read_bytes())

    def adopt_next(self) -> None:
        """The key that was prepared is the worker's own from now on; the one before is gone."""
        (self._folder / NEXT_KEY).replace(self._folder / KEY)

    def box_key(self, name: str = KEY) -> X25519PrivateKey:
        """What opens boxes for this worker, derived from its own key: it is replaced with that."""
        raw = (self._folder / name).read_bytes()
        return X25519PrivateKey.from_private_bytes(sealing.derive(raw, "kasbah-worker-box-v1"))

    def load(self, site: str) -> Identity | None:
        """The identity, None before enrolment. Raises StateError when it is damaged or for another site than `site`."""
        path = self._folder / IDENTITY
        if not path.exists():
            return None
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            control = Verifier.from_raw(*(unb64(key) for key in kept.control_keys))
        except ValueError as error:  # msgspec's and BadToken too
            raise StateError(f"{path} is damaged; remove {self._folder} and enrol again") from error
        if kept.site_slug != site:
            raise StateError(
                f"{self._folder} belongs to a worker of site {kept.site_slug}, not {site}; give another --state-dir"
            )
        signer = self.signer()
        salt_key = sealing.derive((self._folder / KEY).read_bytes(), "kasbah-cache-salt-v1")
        return Identity(kept.worker, kept.site, signer, self.box_key(), control, salt_key)

    def keep(self, answer: enrolment.Answer, site_slug: str) -> None:
        """Write down what the enrolment gave."""
        kept = _Kept(answer.worker, answer.site, site_slug, answer.control_keys)
        self._write(IDENTITY, msgspec.json.encode(kept))

    def keep_control_keys(self, keys: list[str]) -> None:
        """Believe these, raw in base64url, from now on."""
        kept = msgspec.json.decode((self._folder / IDENTITY).read_bytes(), type=_Kept)
        if kept.control_keys != keys:
            self._write(IDENTITY, msgspec.json.encode(msgspec.structs.replace(kept, control_keys=keys)))

    def seen_assignment(self) -> SeenAssignment:
        """The newest assignment that was followed."""
        try:
            return msgspec.json.decode((self._folder / ASSIGNMENT).read_bytes(), type=SeenAssignment)
        except FileNotFoundError:
            return SeenAssignment()
        except msgspec.DecodeError as error:
            raise StateError(f"{self._folder / ASSIGNMENT} is damaged; remove it") from error

    def see_assignment(self, seen: SeenAssignment) -> None:
        """Remember it."""
        self._write(ASSIGNMENT, msgspec.json.encode(seen))

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all, readable by the owner alone."""
        path, new = self._folder / name, self._folder / f".{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
