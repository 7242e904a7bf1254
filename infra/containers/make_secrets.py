"""Make the folder of secrets that docker-compose.yml mounts: `python3 -m infra.containers.make_secrets`.

Every secret is random and made once; a second run changes nothing that exists. The folder is 0700, so nobody else on
the host can enter it. The files in it are 0444: a file-based secret is a bind mount that keeps the host's owner and
mode, each container runs under an account of its own, and only what compose mounts into a container is there at all.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets as random_secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from infra.local import secrets

SITE = "main"
VALKEY = Path(__file__).resolve().parents[1] / "valkey"

PASSWORDS = (
    "postgres_superuser_password",
    "database_owner_password",
    "database_app_password",
    "keycloak_database_password",
    "keycloak_admin_password",
    "keycloak_client_secret",
)
# Handed out later, or filled while the audit key is replaced; compose wants the files.
EMPTY = (f"site_{SITE}_enrol_token", "audit_key_previous")


class CannotMake(RuntimeError):
    """The folder is not complete; the message says what to do."""


def make(folder: Path) -> None:
    """Write what is missing in `folder`, except the certificate."""
    secrets.private_folder(folder)
    password = {name: secrets.once(folder / name, _password) for name in PASSWORDS}
    for name, generate in secrets.GENERATED.items():
        secrets.once(folder / name, generate)
    _follow(folder / "database_url", _postgres("kasbah_app", password["database_app_password"]))
    _follow(folder / "owner_database_url", _postgres("kasbah_owner", password["database_owner_password"]))
    store = _users(folder, "control", "valkey", ("kasbah",))
    _follow(folder / "redis_url", store["kasbah"])
    _acl(folder / "valkey_acl", "control", store)
    broker = _users(folder, "site", f"broker-{SITE}", ("control", "worker"))
    _follow(folder / f"site_{SITE}_control_broker_url", broker["control"])
    _follow(folder / f"site_{SITE}_worker_broker_url", broker["worker"])
    _acl(folder / f"site_{SITE}_broker_acl", "site", broker)
    for name in EMPTY:
        if not (folder / name).exists():
            secrets.write(folder / name, "")
    readable(folder)


def readable(folder: Path) -> None:
    """Let every container read what is mounted into it; the folder itself keeps everybody else out."""
    for path in folder.iterdir():
        path.chmod(0o444)


def _password() -> str:
    return random_secrets.token_urlsafe(32)


def _postgres(role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@postgres:5432/kasbah"  # the password's alphabet needs no quoting


def _users(folder: Path, kind: str, host: str, users: Sequence[str]) -> dict[str, str]:
    """The URL of each user of one Valkey. Its password lives there and nowhere else."""
    names = {
        ("control", "kasbah"): "redis_url",
        ("site", "control"): f"site_{SITE}_control_broker_url",
        ("site", "worker"): f"site_{SITE}_worker_broker_url",
    }
    made = {}
    for user in users:
        url = f"redis://{user}:{_password()}@{host}:6379/0"
        made[user] = secrets.once(folder / names[kind, user], partial(str, url))
    return made


def _acl(path: Path, template: str, urls: dict[str, str]) -> None:
    """The users' file of one Valkey: it holds the SHA-256 of each password, never the password."""
    digests = {user: hashlib.sha256(_password_of(url).encode()).hexdigest() for user, url in urls.items()}
    _follow(path, (VALKEY / f"{template}.acl").read_text(encoding="ascii").format(**digests))


def _password_of(url: str) -> str:
    return url.split("@", maxsplit=1)[0].rsplit(":", 1)[1]


def _follow(path: Path, text: str) -> None:
    """Write what follows from other secrets, when it differs."""
    if not path.exists() or path.read_text(encoding="ascii") != text:
        secrets.write(path, text)


def install_certificate(folder: Path, certificate: Path, key: Path) -> None:
    """Copy the organisation's certificate chain and key into the folder. Raises CannotMake."""
    for source, name, marker in (
        (certificate, "tls_certificate", "-----BEGIN CERTIFICATE-----"),
        (key, "tls_key", "PRIVATE KEY-----"),
    ):
        try:
            text = source.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise CannotMake(f"{source} cannot be read as PEM: {error}") from error
        if marker not in text:
            raise CannotMake(f"{source} is not the PEM file wanted for {name}: it has no line with {marker}")
        _follow(folder / name, text)
    readable(folder)


def sign_own(folder: Path, host: str, days: int = 90) -> None:
    """A self-signed certificate for `host`, for a trial: clients must be told to trust it. Raises CannotMake."""
    program = shutil.which("openssl")
    if program is None:
        raise CannotMake("a self-signed certificate is made by the program openssl, which is not installed")
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", str(days), "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command += ["-keyout", str(folder / "tls_key"), "-out", str(folder / "tls_certificate")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise CannotMake(f"openssl could not make a certificate for {host!r}: {made.stderr.strip()[-300:]}")
    readable(folder)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python3 -m infra.containers.make_secrets", description=__doc__)
    result.add_argument("--folder", type=Path, default=Path("secrets"), help="where to write (default: secrets)")
    result.add_argument("--certificate", type=Path, help="PEM file with the certificate chain for the proxy")
    result.add_argument("--key", type=Path, help="PEM file with its private key")
    result.add_argument("--self-signed", metavar="HOST", help="make a certificate for HOST, for a trial only")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = parser().parse_args(arguments)
    if (options.certificate is None) != (options.key is None):
        parser().error("--certificate and --key belong together")
    try:
        make(options.folder)
        if options.certificate is not None:
            install_certificate(options.folder, options.certificate, options.key)
        elif options.self_signed and not (options.folder / "tls_certificate").exists():
            sign_own(options.folder, options.self_signed)
    except (CannotMake, OSError) as error:
        print(f"make_secrets: {error}", file=sys.stderr)
        return 1
    print(f"{options.folder}: {len(list(options.folder.iterdir()))} secrets; existing ones were kept")
    if not (options.folder / "tls_certificate").exists():
        print("The proxy still needs a certificate: run again with --certificate and --key, or --self-signed HOST")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
