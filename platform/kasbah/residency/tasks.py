"""Housekeeping of policies, as a Celery task; it looks at the whole state, so a missed tick costs only time."""

from __future__ import annotations

import logging

from celery import shared_task

from kasbah.common.exclusive import exclusive
from kasbah.common.isolation import Isolation
from kasbah.identity.services import system
from kasbah.residency import services
from kasbah.residency.services import erasures, pruning, retention

logger = logging.getLogger(__name__)
isolation = Isolation(logger)


@shared_task(name="residency.activate_policies")
def activate_policies() -> None:
    """Activate the versions whose time has come; end requests that nobody answered. Every five seconds."""
    if done := services.activate_due():
        logger.info("Policies: %s", ", ".join(f"{name} {count}" for name, count in sorted(done.items())))


@shared_task(name="residency.retain")
def retain() -> None:
    """Erase content that the policies in force no longer let be kept; end requests to erase that nobody answered.

    Every hour.
    """
    with isolation.apart("The end of requests to erase"):
        erasures.expire_due()
    with exclusive(retention.EXCLUSIVE) as held:
        if held and (erased := retention.erase_due(system("retention").ref)):
            logger.info("Retention: %d records erased", erased)


@shared_task(name="residency.prune")
def prune() -> None:
    """Remove events that pruning policies let go; end requests for such that nobody answered. Every hour."""
    with isolation.apart("The end of requests to prune"):
        pruning.expire_due()
    with exclusive(pruning.EXCLUSIVE) as held:
        if held:
            pruning.prune_due(system("pruning").ref)
