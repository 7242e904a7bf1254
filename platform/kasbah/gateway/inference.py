"""POST to an inference endpoint, from its first byte to its last."""

from __future__ import annotations

from kasbah.common.errors import Conflict, Unavailable
from kasbah.gateway import admission, idempotency, refusals, settlement, sse
from kasbah.gateway.admission import Admitted, Wish
from kasbah.gateway.answering import Answering
from kasbah.gateway.endpoints import Endpoint
from kasbah.gateway.exchange import Exchange
from kasbah.gateway.idempotency import Kept, Key
from kasbah.gateway.runtime import Runtime

TRIES = 5  # of requests under one idempotency key that see each other fail


async def serve(runtime: Runtime, exchange: Exchange, endpoint: Endpoint) -> None:
    """Answer one inference request. Raises KasbahError while nothing was sent."""
    if runtime.drain.begun:
        raise refusals.shutting_down()
    wish = await admission.understand(runtime, exchange, endpoint)
    with runtime.under_way.hold(wish.principal.tenant_id):
        await _serve(runtime, exchange, wish)


async def _serve(runtime: Runtime, exchange: Exchange, wish: Wish) -> None:
    if wish.key is None:
        await _answer(runtime, exchange, await _admit(runtime, exchange, wish))
        return
    async with runtime.turns.of(wish.key):
        found = await _admit_or_repeat(runtime, exchange, wish, wish.key)
        if isinstance(found, Admitted):
            await _answer(runtime, exchange, found)
            return
    await _repeat(exchange, wish, found)


async def _admit(runtime: Runtime, exchange: Exchange, wish: Wish) -> Admitted:
    admitted = await admission.admit(runtime, exchange, wish)
    if admitted is None:
        raise Unavailable("The job was not recorded. Try again.", code="not_recorded")
    return admitted


async def _admit_or_repeat(runtime: Runtime, exchange: Exchange, wish: Wish, key: Key) -> Admitted | Kept:
    """A new job, or the answer that its idempotency key already has."""
    for _ in range(TRIES):
        found = await idempotency.settled(runtime.database, key) or await admission.admit(runtime, exchange, wish)
        if found is not None:
            return found
    raise Conflict(
        "Other requests under this Idempotency-Key keep failing; look at their errors and try again.",
        param="idempotency-key",
    )


async def _answer(runtime: Runtime, exchange: Exchange, admitted: Admitted) -> None:
    try:
        running = await runtime.dispatcher.submit(admitted.job)
    except Unavailable as error:
        await settlement.never_ran(runtime, admitted, error.code)
        raise
    try:
        await Answering(runtime, exchange, admitted, running).run()
    finally:
        running.close()  # a job that was not settled is housekeeping's from now on


async def _repeat(exchange: Exchange, wish: Wish, kept: Kept) -> None:
    exchange.notes["repeated"] = True
    body = sse.without_ids(kept.body) if wish.body.streams and not wish.resume_within else kept.body
    await exchange.begin(200, [*kept.headers, (b"idempotent-replayed", b"true")])
    await exchange.write(body, more=False)
