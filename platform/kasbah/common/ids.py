"""UUIDv7 (RFC 9562 section 5.7): sorts by time, so indexes grow at their end."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """A new id: 48 bits of milliseconds since the epoch, 12 bits of the part of that millisecond, 62 random bits.

    So ids that one process makes one after the other sort as they were made (RFC 9562 section 6.2, method 3).
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    high = (milliseconds << 16) | 0x7000 | (rest << 12) // 1_000_000
    low = (0b10 << 62) | int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=(high << 64) | low)
