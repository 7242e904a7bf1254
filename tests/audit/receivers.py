"""What tests of forwarding share: certificates made on the fly, and receivers that can be told to misbehave."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MESSAGE = re.compile(
    rb"<(?P<priority>\d+)>1 (?P<time>\S+) (?P<host>\S+) (?P<app>\S+) (?P<process>\S+) (?P<kind>\S+) "
    rb'\[(?P<data>(?:[^"\]]|"(?:\\.|[^"\\\]])*")*)\] \xef\xbb\xbf(?P<event>.*)'
)


class Authority:
    """A certificate authority of a test's own; `folder` holds ca.pem and what it issues. Without one it issues none."""

    def __init__(self, folder: Path = Path(os.devnull)) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority")])
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.pem = _pem(made.sign(self._key, hashes.SHA256()))
        self.file = folder / "ca.pem"
        if folder.is_dir():
            self.file.write_text(self.pem)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate for a host name or address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        try:
            other: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            other = x509.DNSName(name)
        builder = self._builder(subject, key).add_extension(x509.SubjectAlternativeName([other]), critical=False)
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_text(_pem(builder.sign(self._key, hashes.SHA256())))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Message:
    """A syslog message, taken apart."""

    header: dict[str, str]
    data: dict[str, str]
    event: bytes


def parsed(text: bytes) -> Message:
    """Of RFC 5424, as strictly as this test needs it."""
    found = MESSAGE.fullmatch(text)
    assert found is not None, text
    name, *_ = found["data"].decode().partition(" ")
    values = dict(re.findall(r' (\w+)="((?:\\.|[^"\\\]])*)"', found["data"].decode()))
    header = {key: found[key].decode() for key in ("priority", "time", "host", "app", "process", "kind")}
    return Message({**header, "name": name}, {key: re.sub(r"\\(.)", r"\1", text) for key, text in values.items()},
                   found["event"])  # fmt: skip


@dataclass
class SyslogReceiver:
    """A syslog server over TLS. `die_after`: it dies, once, when it has taken so many messages of a connection."""

    authority: Authority
    name: str = "localhost"
    client_ca: Path | None = None
    says: bytes = b""  # sent to whoever connects, which no syslog server does
    die_after: int = 0
    deaths: int = 0
    texts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*self.authority.issue(self.name))
        if self.client_ca is not None:
            self.context.load_verify_locations(self.client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def messages(self) -> list[Message]:
        return [parsed(text) for text in self.texts]

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as line:
                if self.says:
                    line.sendall(self.says)
                self._take(line)

    def _take(self, line: ssl.SSLSocket) -> None:
        taken = 0
        with line.makefile("rb") as file:
            while length := b"".join(iter(lambda: file.read(1).strip(), b"")):
                self.texts.append(file.read(int(length)))
                taken += 1
                if taken == self.die_after:
                    self.die_after, self.deaths = 0, self.deaths + 1
                    return


@dataclass
class HttpsReceiver:
    """Takes POSTs over TLS, in a thread. `statuses`: what it answers first; then 200.

    It keeps what it answers with 2xx, or with a status of `takes_first`.
    """

    authority: Authority
    name: str = "localhost"
    statuses: list[int] = field(default_factory=list)
    takes_first: set[int] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        status = self.statuses.pop(0) if self.statuses else 200
        if status < 300 or status in self.takes_first:
            self.lines += [json.loads(line) for line in body.splitlines()]
        extra = [(b"retry-after", b"120")] if status == 429 else []
        await send({"type": "http.response.start", "status": status, "headers": extra})
        await send({"type": "http.response.body", "body": self.headers[-1].get("authorization", "").encode()})


@contextlib.contextmanager
def served(receiver: HttpsReceiver) -> Iterator[str]:
    """Its URL while it runs."""
    certificate, key = receiver.authority.issue(receiver.name)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        receiver, lifespan="off", log_config=None, ssl_certfile=str(certificate), ssl_keyfile=str(key), loop="asyncio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"https://{receiver.name}:{listener.getsockname()[1]}/ingest"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
