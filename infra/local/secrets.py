"""Secrets of a one-machine installation: random, written once, readable by their owner only.

`<home>/secrets/` is what the control plane reads (KASBAH_SECRETS_DIR). `<home>/admin/` holds what only
set-up and migrations use: the owner's database URL and the servers' passwords; the running server is never
given it.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from inference_worker.contract.settings import read_file


def private_folder(path: Path) -> Path:
    """Create `path` (with its parents) and keep it to its owner (0700)."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write(path: Path, text: str) -> None:
    """Replace `path` by `text` atomically, with mode 0600 from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def once(path: Path, make: Callable[[], str]) -> str:
    """The secret in `path`, made by `make` when there is none. An empty file counts as none.

    Raises SettingError for a file that holds no line of text.
    """
    try:
        if text := read_file(path, path.name):
            path.chmod(0o600)
            return text
    except FileNotFoundError:
        private_folder(path.parent)
    text = make()
    write(path, text)
    return text


def setup_folder(home: Path, **more: str) -> Path:
    """`<home>/admin/settings`, to be KASBAH_SECRETS_DIR of what sets up: all that the control plane reads, and `more`,
    which no running server is given."""
    folder = private_folder(home / "admin" / "settings")
    for file in (home / "secrets").iterdir():
        write(folder / file.name, file.read_text(encoding="ascii"))
    for name, text in more.items():
        write(folder / name, text)
    return folder


def password(home: Path, name: str) -> str:
    """The password of a server or role, in `<home>/admin/<name>_password`."""
    return once(home / "admin" / f"{name}_password", lambda: secrets.token_urlsafe(32))


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


# What the control plane reads and nobody chooses. 32 random bytes are an Ed25519 private key too (RFC 8032,
# 5.1.5).
GENERATED: dict[str, Callable[[], str]] = {
    "secret_key": lambda: secrets.token_urlsafe(64),
    "kek": _key,
    "api_key_pepper": lambda: f"p1:{_key()}",
    "audit_key": _key,
}


def write_all(home: Path, *, database_url: str, owner_database_url: str, redis_url: str, bind: str) -> Path:
    """Write each setting of the control plane that is missing, and those that follow the servers' addresses.

    Returns the folder to pass as KASBAH_SECRETS_DIR. Keys that exist are never replaced: stored data
    depends on them.
    """
    folder = private_folder(home / "secrets")
    for name, make in GENERATED.items():
        once(folder / name, make)
    host = bind.rpartition(":")[0]
    following = {
        "database_url": database_url,
        "redis_url": redis_url,
        "bind": bind,
        "allowed_hosts": ",".join(dict.fromkeys(("127.0.0.1", "localhost", host))),
    }
    for name, text in following.items():
        write(folder / name, text)
    once(folder / "installation", lambda: "kasbah")
    write(private_folder(home / "admin") / "owner_database_url", owner_database_url)
    return folder
