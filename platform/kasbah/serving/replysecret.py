"""The secret under which a worker seals the frames of a job's answer.

It is derived from the job's id, so that housekeeping can open a terminal frame whose web process is gone.
"""

from __future__ import annotations

from functools import cache
from uuid import UUID

from inference_worker.contract import sealing
from kasbah.common import env


@cache
def _master() -> bytes:
    return sealing.derive(env.key_bytes("KEK"), "kasbah-reply-master-v1")


def reply_secret(job_id: UUID) -> bytes:
    """32 bytes, known to the control plane and, inside the sealed payload, to the worker that opens it."""
    return sealing.derive(_master(), f"kasbah-reply-v1:{job_id}")
