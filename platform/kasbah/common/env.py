"""Where settings come from: the environment `KASBAH_<NAME>`, else a file `<KASBAH_SECRETS_DIR>/<name in lower case>`.

The file form is what Docker and Kubernetes secrets are; a secret need never stand in an environment.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path


class SettingMissing(RuntimeError):
    """A setting that has no default is not there; the message says how to give it."""


def value(name: str, default: str | None = None) -> str:
    """The setting `name` (upper case, without the prefix). Raises SettingMissing when it is nowhere."""
    if (found := os.environ.get(f"KASBAH_{name}")) is not None:
        return found
    folder = os.environ.get("KASBAH_SECRETS_DIR")
    if folder and (path := Path(folder) / name.lower()).is_file():
        return path.read_text(encoding="utf-8").strip()
    if default is not None:
        return default
    raise SettingMissing(
        f"KASBAH_{name} is not set. Set it, or put it into the file {name.lower()} of the folder KASBAH_SECRETS_DIR."
    )


def key_bytes(name: str) -> bytes:
    """A 32-byte key in base64. Raises SettingMissing when it is absent or not that."""
    try:
        raw = base64.b64decode(value(name), validate=True)
    except binascii.Error as error:
        raise SettingMissing(f"KASBAH_{name} must be 32 bytes in base64: {error}") from error
    if len(raw) != 32:
        raise SettingMissing(f"KASBAH_{name} must be 32 bytes in base64; it has {len(raw)}")
    return raw
