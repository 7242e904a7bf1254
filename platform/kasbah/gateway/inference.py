"""POST to an inference endpoint, from its first byte to its last."""

from __future__ import annotations

from kasbah.common.errors import Conflict, Unavailable
from kasbah.gateway import admission, idempotency, refusals, settlement
from kasbah.gateway.admission import Admitted, Wish
from kasbah.gateway.answering import Answering
from kasbah.gateway.endpoints import Endpoint
from kasbah.gateway.exchange import Exchange
from kasbah.gateway.idempotency import Kept
from kasbah.gateway.runtime import Runtime

TRIES = 5  # of requests under one idempotency key that see each other fail


async def serve(runtime: Runtime, exchange: Exchange, endpoint: Endpoint) -> None:
    """Answer one inference request. Raises KasbahError while nothing was sent."""
    if runtime.drain.begun:
        raise refusals.shutting_down()
    wish = await admission.understand(runtime, exchange, endpoint)
    admitted = await _admit_or_repeat(runtime, exchange, wish)
    if isinstance(admitted, Kept):
        await _repeat(exchange, admitted)
        return
    try:
        running = await runtime.dispatcher.submit(admitted.job)
    except Unavailable as error:
        await settlement.never_ran(runtime, admitted, error.code)
        raise
    await Answering(runtime, exchange, admitted, running).run()


async def _admit_or_repeat(runtime: Runtime, exchange: Exchange, wish: Wish) -> Admitted | Kept:
    """A new job, or the answer that its idempotency key already has."""
    if wish.key is None:
        admitted = await admission.admit(runtime, exchange, wish)
        if admitted is not None:
            return admitted
    else:
        for _ in range(TRIES):
            kept = await idempotency.settled(runtime.database, wish.key)
            found = kept or await admission.admit(runtime, exchange, wish)
            if found is not None:
                return found
    raise Conflict(
        "Other requests under this Idempotency-Key keep failing; look at their errors and try again.",
        param="idempotency-key",
    )


async def _repeat(exchange: Exchange, kept: Kept) -> None:
    exchange.notes["repeated"] = True
    await exchange.begin(200, [*kept.headers, (b"idempotent-replayed", b"true")])
    await exchange.write(kept.body, more=False)
