"""No dumps: kombu writes messages that it cannot give back into a temporary file, and leaves that behind.

When a process ends while its broker is away, kombu's virtual transports (Redis among them) put all unacknowledged
messages, here tickets and sealed payloads, into a file (kombu.utils.div.emergency_dump_state). Nothing here needs it:
the row of a job is the truth, and what was lost is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import Any

from kombu.transport.virtual import base

log = logging.getLogger(__name__)


def leave_no_dumps() -> None:
    """From now on in this process such messages are counted in the log, and written nowhere."""
    setattr(base, "emergency_dump_state", _count)  # noqa: B010 - a name that kombu's stubs do not have


def _count(state: Sized, *_: Any, **__: Any) -> None:
    log.warning("%d messages could not be given back to the broker; their jobs are sent again", len(state))
