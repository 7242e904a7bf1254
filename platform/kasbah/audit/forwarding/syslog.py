"""Syslog (RFC 5424) over TLS with octet counting (RFC 5425).

Syslog has no acknowledgement. What comes nearest: everything is sent, then TLS is closed from this side, and the
receiver must close its own in order. It counts as taken only if the receiver's machine has confirmed every byte and the
connection was not reset; a receiver that dies with bytes unread resets it, and one that hangs does not close.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Sequence
from functools import cache
from urllib.parse import urlsplit

from django.conf import settings

from inference_worker.contract import canonical
from kasbah.audit.forwarding.destination import Destination, Item, NotTaken, context, left

PORT = 6514  # RFC 5425
LOG_AUDIT = 13  # facility
SEVERITIES = {"success": 6, "pending": 6, "cancelled": 5, "denied": 4, "failure": 3}  # informational ... error
NOTICE = 5
CHUNK = 16_384  # bytes: one record of TLS, so that no single call waits longer than its time
BOM = b"\xef\xbb\xbf"  # the message is UTF-8
ESCAPED = str.maketrans({'"': '\\"', "\\": "\\\\", "]": "\\]"})


def endpoint(address: str) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    parts = urlsplit(f"//{address}")
    return parts.hostname or "", parts.port or PORT


def message(item: Item) -> bytes:
    """One event as a syslog message; its text is the event's canonical JSON, the very bytes of the log."""
    event = canonical.loads(item.event)
    priority = LOG_AUDIT * 8 + SEVERITIES.get(event["outcome"], NOTICE)
    header = f"<{priority}>1 {event['time']} {_host()} kasbah - {event['type'][:32]}"
    place = {"trial": "true"} if item.index is None else {"log": item.origin, "index": str(item.index)}
    facts = place | {"leaf": item.leaf.hex(), "id": event["id"]}
    data = " ".join(f'{name}="{value.translate(ESCAPED)}"' for name, value in facts.items())
    return f"{header} [kasbah@{settings.SYSLOG_PEN} {data}] ".encode() + BOM + item.event


def frame(text: bytes) -> bytes:
    """The message after its length in octets."""
    return b"%d %s" % (len(text), text)


def send(destination: Destination, items: Sequence[Item], deadline: float) -> None:
    """Send, in order, and wait until it is taken. Raises NotTaken, OSError."""
    data = b"".join(frame(message(item)) for item in items)
    host, port = endpoint(destination.address)
    with socket.create_connection((host, port), left(deadline)) as plain:
        plain.settimeout(left(deadline))
        with context(destination).wrap_socket(plain, server_hostname=host) as line:
            for start in range(0, len(data), CHUNK):
                line.settimeout(left(deadline))
                line.sendall(data[start : start + CHUNK])
            _still_there(line)
            line.settimeout(left(deadline))
            _close(line)


def _still_there(line: ssl.SSLSocket) -> None:
    """A receiver says nothing and stays. Raises NotTaken, OSError."""
    line.settimeout(0)
    try:
        said = line.recv(1)
    except ssl.SSLWantReadError:
        return
    raise NotTaken("it answered, which no syslog receiver does" if said else "it closed before all was sent")


def _close(line: ssl.SSLSocket) -> None:
    """Close in order. Raises NotTaken, OSError."""
    try:
        line.unwrap()
    except ssl.SSLEOFError:
        pass  # many receivers close the connection without the closing message of TLS
    except OSError as error:
        # An end without closing message comes as OSError(0). A time-out has no number at all, and is none of it:
        # a receiver that hangs leaves the connection open, its kernel having confirmed what it never reads.
        if error.errno != 0:
            raise
    unconfirmed = struct.unpack("i", fcntl.ioctl(line.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    if unconfirmed or line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise NotTaken("it closed before it had read everything")


@cache
def _host() -> str:
    """This machine's name: printable ASCII, as the header wants it."""
    return "".join(letter for letter in socket.gethostname() if "!" <= letter <= "~")[:255] or "-"
