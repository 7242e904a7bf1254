"""The path that somebody meant who asked for one that is not there, and what is said to him."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import quote

from kasbah.common.errors import NotFound

DOCS = "/api/docs/"
ALIASES = {
    "/docs": DOCS,
    "/redoc": DOCS,
    "/swagger": DOCS,
    "/swagger-ui": DOCS,
    "/openapi.json": "/api/schema/",
    "/v1/openapi.json": "/api/schema/",
    "/health": "/healthz",
    "/ready": "/readyz",
    "/v1/tokenize": "/tokenize",
}
LONGEST = 200  # characters that are looked at
GUIDE = (
    "The inference API is under /v1 (GET /v1/models lists your models), the management API under /api/; its"
    f" documentation is at {DOCS}."
)


def path_not_found(method: str, path: str, known: Collection[str]) -> NotFound:
    """Says that the path is not there, and which of `known` may be meant; one that ends in "/" is a prefix."""
    meant = _meant(path[:LONGEST], known)
    way_out = f"Did you mean {quote(meant)}? " if meant else ""
    if meant.startswith("/v1"):
        way_out += "A base URL ends in /v1, without a slash after it and without a second /v1. "
    return NotFound(f"There is no {method} {quote(path[:100])} here. {way_out}{GUIDE}", param="path")


def _meant(path: str, known: Collection[str]) -> str:
    plain = re.sub(r"/{2,}", "/", path).rstrip("/")
    last = plain[plain.rfind("/v1/") :] if "/v1/" in plain else plain
    for written in (plain, last, f"/v1{plain}"):
        for candidate in (written, written.lower()):
            found = ALIASES.get(candidate, candidate)
            prefixed = any(name.endswith("/") and found.startswith(name) for name in known)
            if found != path and (found in known or found in ALIASES.values() or prefixed):
                return found
    return ""
