"""Where settings come from: the environment `KASBAH_<NAME>`, else a file `<KASBAH_SECRETS_DIR>/<name in lower case>`.

The file form is what Docker and Kubernetes secrets are; a secret need never stand in an environment. Each kind of
value has its reader here, which names the setting when the value is not of that kind, and never repeats a secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path

from inference_worker.contract import settings
from inference_worker.contract.settings import (
    SettingError,
    SettingInvalid,
    exit_on_wrong_setting,
    integer,
    invalid,
    number,
)

__all__ = [
    "SettingError",
    "SettingInvalid",
    "SettingMissing",
    "address",
    "choice",
    "endpoint",
    "entries",
    "exit_on_wrong_setting",
    "integer",
    "invalid",
    "key_bytes",
    "key_of",
    "matching",
    "number",
    "switch",
    "value",
]  # fmt: skip

HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
PORT = re.compile(r"[0-9]{1,5}")


class SettingMissing(SettingError):
    """A setting that has no default is not there; the message says how to give it."""


def value(name: str, default: str | None = None) -> str:
    """The setting `name` (upper case, without the prefix). Raises SettingMissing when it is nowhere, SettingError."""
    if (found := settings.read(name)) is not None:
        return found
    if default is not None:
        return default
    raise SettingMissing(
        f"KASBAH_{name} is not set. Set it, or put it into the file {name.lower()} of the folder KASBAH_SECRETS_DIR"
        f"{_about_folder()}."
    )


def _about_folder() -> str:
    folder = os.environ.get(settings.SECRETS_DIR)
    return f" (it names {folder!r}, which is no folder)" if folder and not Path(folder).is_dir() else ""


def switch(name: str, default: str) -> bool:
    """1 is on, 0 or nothing is off. Raises SettingInvalid."""
    return choice(name, default, ("0", "1", "")) == "1"


def choice(name: str, default: str, known: tuple[str, ...]) -> str:
    """One of `known`. Raises SettingInvalid."""
    found = value(name, default)
    if found not in known:
        raise invalid(name, f"one of {', '.join(filter(None, known))}", found)
    return found


def matching(name: str, default: str, pattern: str, called: str) -> str:
    """A text that `pattern` matches as a whole; `called` says in words what that is. Raises SettingInvalid."""
    found = value(name, default)
    if re.fullmatch(pattern, found) is None:
        raise invalid(name, called, found)
    return found


def entries(name: str, default: str, pattern: str, called: str) -> list[str]:
    """What stands between commas, each matched by `pattern`; without blanks and empty ones. Raises SettingInvalid."""
    found = [each for each in (part.strip() for part in value(name, default).split(",")) if each]
    for each in found:
        if re.fullmatch(pattern, each) is None:
            raise invalid(name, f"{called}, separated by commas", each)
    return found


def address(name: str, default: str, schemes: tuple[str, ...]) -> str:
    """An address that may hold a password. Raises SettingError, which does not repeat it."""
    return settings.check_address(value(name, default), schemes, f"KASBAH_{name}")


def key_bytes(name: str) -> bytes:
    """A 32-byte key in base64. Raises SettingMissing when it is absent, SettingInvalid when it is not that."""
    return key_of(value(name), f"KASBAH_{name} must be 32 bytes in base64")


def key_of(text: str, problem: str) -> bytes:
    """32 bytes from their base64. Raises SettingInvalid with `problem`, which tells of the text its length alone."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise SettingInvalid(f"{problem}; it is not base64") from None
    if len(raw) != 32:
        raise SettingInvalid(f"{problem}; it has {len(raw)}")
    return raw


def endpoint(name: str, default: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[address]:port`. Raises SettingInvalid."""
    found = value(name, default)
    host, colon, port = found.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not HOST.fullmatch(bare) or (":" in bare) != host.startswith("[") or not PORT.fullmatch(port):
        raise invalid(name, "HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080", found)
    if int(port) > 65535:
        raise invalid(name, "HOST:PORT with a port from 0 to 65535", found)
    return host, int(port)
