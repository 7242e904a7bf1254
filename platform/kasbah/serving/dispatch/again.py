"""Another attempt of jobs whose worker, message or store was lost: the row first, then the offer; never elsewhere than
the compliant sites, never after something of the answer was handed on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from inference_worker.contract.frames import Done
from inference_worker.contract.messages import Usage
from kasbah.common.errors import Unavailable
from kasbah.serving.dispatch.running import Running
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.rows import raise_attempts

if TYPE_CHECKING:
    from kasbah.serving.dispatch.dispatcher import Dispatcher

logger = logging.getLogger(__name__)


async def again(dispatcher: Dispatcher, lost: Sequence[Running]) -> None:
    """Begin a new attempt of each that may have one; the others end with an error."""
    movable = [running for running in lost if _may_move(running, dispatcher.timings.attempts)]
    if not movable:
        return
    for running in movable:
        running.moving = True
    try:
        await _move(dispatcher, movable)
    except Unavailable:
        logger.warning("%d lost jobs wait for the database before they go on", len(movable))
    finally:
        for running in movable:
            running.moving = False


def _may_move(running: Running, attempts: int) -> bool:
    if running.ended or running.moving:
        return False
    if running.cancelled:
        running.finish(Done(Usage(0, 0, exact=False), "", cancelled=True))
    elif running.relayed:
        running.fail(503, "worker_lost", "The worker was lost while it answered.")
    elif running.attempt >= attempts:
        running.fail(503, "worker_lost", f"Given up after {running.attempt} attempts. Try again later.")
    else:
        return True
    return False


async def _move(dispatcher: Dispatcher, lost: Sequence[Running]) -> None:
    targets = {
        running.job.id: (
            running,
            _next_site(dispatcher, running),
            dispatcher.ticket_of(running.job, running.attempt + 1),
        )
        for running in lost
    }
    moves = [(job, running.attempt, site, ticket) for job, (running, site, ticket) in targets.items()]
    async with dispatcher.database.transaction(None) as connection:
        raised = await raise_attempts(connection, moves, dispatcher.timings.row_lease)
    for job_id, (running, site, ticket) in targets.items():
        if job_id not in raised:
            running.fail(503, "settled_elsewhere", "The job was ended by housekeeping. Try again.")
            continue
        dispatcher.moves(running, site)
        running.again(running.attempt + 1, site, ticket)
    # `moving` only kept the old attempt out; the new one may answer before `offer` returns.
    for running in lost:
        running.moving = False
    await asyncio.gather(*(_offer(dispatcher, targets[job][0]) for job in raised))


async def _offer(dispatcher: Dispatcher, running: Running) -> None:
    with contextlib.suppress(StoreAway):  # the watch finds it lost once the store is back
        await dispatcher.offer(running)
        if running.cancelled:  # meanwhile; the mark of the attempt before went with it
            await dispatcher.cancel(running)


def _next_site(dispatcher: Dispatcher, running: Running) -> UUID:
    ready = dispatcher.capacity.ready(running.job.deployment_id, running.job.sites)
    return ready[0] if ready else running.site
