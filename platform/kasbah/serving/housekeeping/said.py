"""What was answered to those whose web process died: read from the site's store, where the policy lets it be kept.

A client can have had, or can still take up, every frame of the stream that lies there. Of a request that does not
stream nothing went out, so nothing is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from inference_worker.contract import frames as contract_frames
from inference_worker.contract.frames import Data, Role
from inference_worker.contract.sealing import CannotOpen, FrameCipher
from kasbah.audit.services.content import StreamForm, late
from kasbah.common import rls
from kasbah.serving.housekeeping.sites import Reached
from kasbah.serving.models import Job
from kasbah.serving.records import SettledJob
from kasbah.serving.replysecret import reply_secret

logger = logging.getLogger(__name__)


def with_answers(reached: Reached, settled: Sequence[SettledJob], jobs: Iterable[Job]) -> list[SettledJob]:
    """The jobs with what was said, where it is kept. Raises StoreAway."""
    streams = {job.id for job in jobs if job.stream}
    asked = [(job.outcome.tenant_id, job.request_id) for job in settled if job.outcome.job_id in streams]
    if not asked:
        return list(settled)
    with rls.platform_scope():
        places = late.places(asked)
    return [
        replace(job, place=places[job.request_id], said=_said(reached, job.outcome.job_id, job.outcome.attempt))
        if job.outcome.job_id in streams and job.request_id in places
        else job
        for job in settled
    ]


def _said(reached: Reached, job: UUID, attempt: int) -> bytes:
    cipher, form = FrameCipher(reply_secret(job), str(job), attempt), StreamForm()
    try:
        for sequence, sealed in reached.store.frames(str(job), attempt):
            for frame in contract_frames.unpack(cipher.open(sequence, sealed)):
                if isinstance(frame, (Data, Role)):
                    form.add(frame.chunk)
    except (CannotOpen, ValueError) as error:  # msgspec's errors too
        # No web process hands on what comes after a frame that does not open.
        logger.warning("The answer of job %s is kept as far as it can be read: %s", job, error)
    return form.bytes()
