"""The watch over one site: its workers' reports, and the leases of the jobs that this process has there."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING
from uuid import UUID

from inference_worker.contract import keys
from inference_worker.contract.bounds import line
from kasbah.serving.dispatch.link import Link
from kasbah.serving.dispatch.running import Running
from kasbah.serving.dispatch.sight import Sight, Verdict, judge
from kasbah.serving.dispatch.store import CANCEL, StoreAway

if TYPE_CHECKING:
    from kasbah.serving.dispatch.dispatcher import Dispatcher

UNENDED_LOOKS = 5
ASK_EVERY = 5.0  # seconds between two questions whether a site's store takes writes and keeps them

logger = logging.getLogger(__name__)


async def watch(dispatcher: Dispatcher, link: Link) -> None:
    """Look for ever; an error is said and the next look comes as usual."""
    while True:
        try:
            await look(dispatcher, link)
            link.answered()
        except StoreAway as error:
            if link.away_since is None:
                logger.warning("The store of site %s is away: %s", link.record.slug, error)
            link.silent()
            dispatcher.capacity.is_down_now(link.id, "its store is away")
            await _give_up(dispatcher, link)
        except Exception:
            logger.exception("The watch over site %s failed, goes on", link.record.slug)
        await asyncio.sleep(dispatcher.timings.look)


async def look(dispatcher: Dispatcher, link: Link) -> None:
    """One look. Raises StoreAway."""
    reachable = await link.carrier.answers()
    problem = await _problem(link)
    await dispatcher.capacity.refresh(link.id, link.store, link.record.slug)
    if problem or not reachable:  # answers still come by the store, so that only new jobs must stay away
        dispatcher.capacity.is_down_now(link.id, problem or "its broker is away")
    young = time.monotonic() - dispatcher.timings.look / 2
    jobs = [item for item in dispatcher.running_at(link.id) if item.offered_at < young and not item.moving]
    if not jobs:
        return
    attempts = [item.attempt for item in jobs]
    asked = [(item.key, str(item.job.deployment_id)) for item in jobs]
    sights = await link.carrier.look(asked, dispatcher.timings.lease_ms)
    lost = []
    for item, attempt, sight in zip(jobs, attempts, sights, strict=True):
        if item.ended or item.moving or item.attempt != attempt:
            continue  # it went on while the answer travelled
        try:
            if await _is_lost(dispatcher, link, item, sight):
                lost.append(item)
        except StoreAway:
            raise
        except Exception:  # whatever is wrong with it, the other jobs are looked after
            logger.exception("The look after job %s at site %s failed", item.key, link.record.slug)
    if lost:
        logger.warning("%d attempts at site %s are lost", len(lost), link.record.slug)
        await dispatcher.again(lost)


async def _problem(link: Link) -> str:
    """What is wrong with the site's store though it answers, asked every few seconds, and at each look while something
    is. Raises StoreAway."""
    if link.problem or time.monotonic() - link.asked_at > ASK_EVERY:
        found, link.asked_at = await link.store.problem(), time.monotonic()
        if found != link.problem:
            logger.warning("The store of site %s: %s", link.record.slug, found or "all is well again")
        link.problem = found
    return f"its store: {link.problem}" if link.problem else ""


async def _is_lost(dispatcher: Dispatcher, link: Link, item: Running, sight: Sight) -> bool:
    match judge(sight, item.attempt, grace_ms=dispatcher.timings.lease_ms):
        case Verdict.DONE:
            await dispatcher.catch_up(item)
            _expect_end(link, item)
        case Verdict.RUNNING:
            item.worker = UUID(sight.worker)
            await _cancel_again(link, item, sight)
        case Verdict.WAITING:
            await _cancel_again(link, item, sight)
            if sight.waited_ms > dispatcher.timings.queue_wait * 1000:
                await link.store.run(CANCEL, [((keys.job(item.key),), ())])
                item.fail(503, "no_capacity", "No worker took the job in time. Try again later.")
        case Verdict.REFUSED:
            logger.error("A worker at site %s refused job %s: %s", link.record.slug, item.key, line(sight.refused, 40))
            item.fail(403, "refused_by_worker", "The worker refused the job: it may not run where it was sent.")
        case Verdict.LOST:
            # After an outage workers get the time to renew: they held their leases all along.
            known = sight.attempt == item.attempt
            return not known or time.monotonic() - link.back_at > dispatcher.timings.lease
    return False


def _expect_end(link: Link, item: Running) -> None:
    """Give an attempt up whose store says that it is done, and never shows its last frame."""
    if item.ended or item.terminal is not None:
        return
    item.unended_looks += 1
    if item.unended_looks >= UNENDED_LOOKS:
        logger.error("Job %s is done at site %s without a last frame", item.key, link.record.slug)
        item.fail(502, "answer_altered", "The answer was altered on its way and is withheld.")


async def _cancel_again(link: Link, item: Running, sight: Sight) -> None:
    """The mark may have met an absent store, or an attempt before this one."""
    if item.cancelled and not sight.cancelled:
        await link.store.run(CANCEL, [((keys.job(item.key),), ())])


async def _give_up(dispatcher: Dispatcher, link: Link) -> None:
    """Jobs of a site that has been away for a lease go to another compliant site; after the patience they fail."""
    away = time.monotonic() - (link.away_since or time.monotonic())
    if away > dispatcher.timings.store_patience:
        for item in dispatcher.running_at(link.id):
            item.fail(503, "site_unreachable", "The site that answers cannot be reached.")
    elif away > dispatcher.timings.lease:
        moved = [item for item in dispatcher.running_at(link.id) if _can_move(dispatcher, link, item)]
        if moved:
            logger.warning("%d jobs leave site %s, which is away", len(moved), link.record.slug)
            await dispatcher.again(moved)


def _can_move(dispatcher: Dispatcher, link: Link, item: Running) -> bool:
    """Whether nothing of its answer went out, and another compliant site serves it."""
    if item.relayed or item.moving or item.cancelled or item.attempt >= dispatcher.timings.attempts:
        return False
    ready = dispatcher.capacity.ready(item.job.deployment_id, item.job.sites)
    return any(site != link.id for site in ready)
