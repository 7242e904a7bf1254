"""The log's second step, as a Celery task."""

from __future__ import annotations

import logging

from celery import shared_task

from kasbah.audit.forwarding.sending import forward
from kasbah.audit.log import presence
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.sequencer import sequence
from kasbah.audit.log.witnessing import ask_all
from kasbah.common.env import SettingError
from kasbah.common.exclusive import one_run

logger = logging.getLogger(__name__)
ROUNDS = 20  # in one task, so that a backlog does not wait for the next tick


@shared_task(name="audit.sequence")
def sequence_log() -> None:
    """Give committed events their places and sign for them. Twice a second."""
    try:
        for _ in range(ROUNDS):
            if not sequence().more:
                break
        presence.at_work()
    except SignerRefuses as error:
        presence.stopped()
        logger.critical("The audit log is not continued. %s", error)


@shared_task(name="audit.ask_witnesses")
@one_run("ask-witnesses")
def ask_witnesses() -> None:
    """Have the witnesses cosign what grew. Every thirty seconds; one run at a time."""
    try:
        ask_all()
    except SettingError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says all; a traceback would hide it


@shared_task(name="audit.forward")
@one_run("audit-forward")
def forward_log() -> None:
    """Send what the logs have to where it is to be forwarded. Every two seconds; one run at a time."""
    if taken := forward():
        logger.debug("Forwarded %d events", taken)
