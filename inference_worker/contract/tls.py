"""How kombu must check the certificate of a broker: its own default for rediss:// checks none, for amqps:// no name."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qs, urlsplit


def options(url: str) -> dict[str, Any] | None:
    """kombu's `ssl` for a broker's address; None without TLS. What a rediss:// address says of itself stays.

    Authorities are the system's, or those in the file that SSL_CERT_FILE names.
    """
    parts = urlsplit(url)
    if parts.scheme == "amqps":
        return {"server_hostname": None, "cert_reqs": ssl.CERT_REQUIRED}  # None: the one in the address
    if parts.scheme == "rediss" and not any(name.startswith("ssl_") for name in parse_qs(parts.query)):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return None
