"""What a sender needs of a destination, who it trusts there, and what went wrong in words without secrets."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from inference_worker.contract.egress import EgressRefused


@dataclass(frozen=True, slots=True)
class Destination:
    """One receiver, with its secrets opened; they are in no `repr`."""

    kind: str
    address: str
    ca_certificate: str
    client_certificate: str = ""
    client_key: str = field(default="", repr=False)
    header_name: str = ""
    header_value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Item:
    """An event to be sent, and its place in its log; `index` None: a trial, which has none."""

    origin: str
    index: int | None
    leaf: bytes
    event: bytes


class NotTaken(Exception):
    """The receiver did not take what it was sent; `retry_after` is in seconds, where it said so."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def left(deadline: float) -> float:
    """Seconds until `deadline` (time.monotonic). Raises TimeoutError when none are left."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def context(destination: Destination) -> ssl.SSLContext:
    """TLS 1.2 or newer; the receiver's certificate and host name are always verified. Raises OSError, ValueError."""
    made = ssl.create_default_context(cadata=destination.ca_certificate)  # with it, the system's are not loaded
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if destination.client_certificate:
        # OpenSSL reads keys from files alone: one in memory that no other process can open.
        with os.fdopen(os.memfd_create("client"), "w", encoding="ascii") as file:
            file.write(destination.client_certificate.strip() + "\n" + destination.client_key.strip() + "\n")
            file.flush()
            made.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=lambda: "")
    return made


def reason(error: BaseException) -> str:
    """Why it failed, for a person; nothing of what was sent or answered is in it."""
    for each in _causes(error):
        match each:
            case ssl.SSLWantReadError() | ssl.SSLWantWriteError():
                continue  # it was waiting when it was cut off
            case EgressRefused():
                return str(each)
            case ssl.SSLCertVerificationError():
                return f"its certificate is not accepted: {each.verify_message or each.reason}"
            case ssl.SSLError():
                return f"TLS failed: {each.reason or type(each).__name__}"
            case TimeoutError():
                return "it did not answer in time"
            case OSError() if each.strerror:
                # asyncio has words of its own, without the system's; the numbers of a resolver are negative.
                words = os.strerror(each.errno) if each.errno and each.errno > 0 else each.strerror
                return f"the connection failed: {words}"
    return f"the connection failed: {type(error).__name__}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it, the first cause first."""
    found = [error]
    while (inner := found[-1].__cause__ or found[-1].__context__) is not None and inner not in found:
        found.append(inner)
    for each in reversed(found):
        yield from each.exceptions if isinstance(each, BaseExceptionGroup) else (each,)
