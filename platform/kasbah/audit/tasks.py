"""The log's second step, as a Celery task."""

from __future__ import annotations

import logging

from celery import shared_task

from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.sequencer import sequence

logger = logging.getLogger(__name__)
ROUNDS = 20  # in one task, so that a backlog does not wait for the next tick


@shared_task(name="audit.sequence")
def sequence_log() -> None:
    """Give committed events their places and sign for them. Twice a second."""
    try:
        for _ in range(ROUNDS):
            if not sequence().more:
                return
    except SignerRefuses as error:
        logger.critical("The audit log is not continued. %s", error)
