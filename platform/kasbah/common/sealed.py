"""Columns that lie encrypted in the database: AES-256-GCM under the key-encryption key, bound to their place."""

from __future__ import annotations

from functools import cache

from inference_worker.contract import sealing
from kasbah.common import env


@cache
def kek() -> bytes:
    """KASBAH_KEK, 32 bytes. Raises SettingError."""
    return env.key_bytes("KEK")


def seal(plaintext: bytes, *, table: str, row: object, column: str) -> bytes:
    """Encrypt for one column of one row; moved elsewhere it does not open."""
    return sealing.seal_box(kek(), plaintext, f"{table}:{row}:{column}")


def unseal(box: bytes | memoryview, *, table: str, row: object, column: str) -> bytes:
    """The reverse of `seal`. Raises sealing.CannotOpen."""
    return sealing.open_box(kek(), bytes(box), f"{table}:{row}:{column}")
