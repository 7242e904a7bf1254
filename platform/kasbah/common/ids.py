"""UUIDv7 (RFC 9562 section 5.7): sorts by time, so indexes grow at their end."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """A new id: 48 bits of milliseconds since the epoch, 74 random bits."""
    value = int.from_bytes(os.urandom(10), "big")
    milliseconds = time.time_ns() // 1_000_000
    high = (milliseconds << 16) | 0x7000 | (value >> 68) & 0x0FFF
    low = (0b10 << 62) | value & ((1 << 62) - 1)
    return UUID(int=(high << 64) | low)
