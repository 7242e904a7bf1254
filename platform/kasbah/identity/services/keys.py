"""API keys as text: `ksb_`, 32 random base62 characters (190 bits), and a CRC32 of both as 6 base62 characters.

The checksum lets secret scanners recognise a leaked key without asking, and spares the database a typing error.
Stored is HMAC-SHA256 under a pepper that is not in the database: a stolen table opens nothing, and with 190 random
bits a slow hash would add nothing but time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from functools import cache

from kasbah.common import env
from kasbah.common.errors import Unauthenticated

PREFIX = "ksb_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
SHOWN = 12  # characters by which people recognise a key
FORMAT = re.compile(r"ksb_[0-9A-Za-z]{38}")
MALFORMED = "The API key is malformed. A key starts with ksb_ and has 42 characters; copy it whole."


@dataclass(frozen=True, slots=True)
class Pepper:
    """The secret of the HMAC and the id that rows remember it by."""

    id: str
    secret: bytes


def generate() -> str:
    """A new key."""
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(32))
    return body + _checksum(body)


def parse(text: str) -> str:
    """`text` when it is a well-formed key. Raises Unauthenticated."""
    if FORMAT.fullmatch(text) is None or not hmac.compare_digest(_checksum(text[:36]), text[36:]):
        raise Unauthenticated(MALFORMED)
    return text


def digest(text: str) -> bytes:
    """What is stored of a key: HMAC-SHA256 under the current pepper, 32 bytes."""
    return hmac.digest(pepper().secret, text.encode("ascii"), hashlib.sha256)


@cache
def pepper() -> Pepper:
    """KASBAH_API_KEY_PEPPER, `<id>:<base64 of 32 bytes>`. Raises env.SettingError."""
    ident, colon, encoded = env.value("API_KEY_PEPPER").partition(":")
    problem = "KASBAH_API_KEY_PEPPER must be <id>:<base64 of 32 bytes>, the id 1 to 16 characters"
    if not colon or not 1 <= len(ident) <= 16:
        raise env.SettingInvalid(problem)
    return Pepper(ident, env.key_of(encoded, problem))


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(6):  # 62^6 > 2^32
        value, digit = divmod(value, 62)
        digits = ALPHABET[digit] + digits
    return digits
