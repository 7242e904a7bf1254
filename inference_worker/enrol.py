"""A worker's first start: it proves that it holds the token, and learns who it is (contract/enrolment.py)."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from inference_worker.contract import enrolment, keys, sealing
from inference_worker.contract.signing import BadToken, b64
from inference_worker.identity import State

PATIENCE = 30.0  # seconds until the control plane must have answered
POLL = 0.2


class NotEnrolled(RuntimeError):
    """The worker could not enrol; the message says why and what to do."""


async def enrol(redis: Redis, state: State, *, token: str, site: str, name: str, patience: float = PATIENCE) -> None:
    """Enrol and keep the identity in `state`. Raises NotEnrolled."""
    try:
        parts = enrolment.parse_token(token)
    except (BadToken, ValueError) as error:
        text = f"the enrolment token is not one: it starts with {enrolment.PREFIX} and has 68 characters; copy it whole"
        raise NotEnrolled(text) from error
    signer = state.signer()
    nonce = secrets.token_urlsafe(16)
    request = enrolment.Request(name=name, site=site, public_key=b64(signer.public.public_bytes_raw()), nonce=nonce)
    answer = await _exchange(redis, parts, nonce, enrolment.seal_request(parts, request), patience)
    if answer.error:
        raise NotEnrolled(f"the control plane refused: {answer.error}")
    state.keep(answer, site)


async def _exchange(
    redis: Redis, parts: enrolment.EnrolmentSecret, nonce: str, envelope: bytes, patience: float
) -> enrolment.Answer:
    """Put the request into the report stream and wait for the answer's key."""
    deadline = time.monotonic() + patience
    asked = False
    while time.monotonic() < deadline:
        try:
            if not asked:
                await redis.xadd(keys.REPORTS, {keys.ENROL: envelope}, maxlen=keys.REPORTS_MAXLEN)
                asked = True
            box = await redis.get(keys.enrolment_answer(nonce))
        except AuthenticationError as error:
            raise NotEnrolled(
                "the broker refuses the password or user in the broker URL; check --broker (KASBAH_BROKER_URL)"
            ) from error
        except (RedisError, OSError) as error:
            if time.monotonic() + 1 >= deadline:
                raise NotEnrolled(
                    f"the site's broker cannot be reached ({type(error).__name__}); check --broker (KASBAH_BROKER_URL)"
                    " and that it runs"
                ) from error
            await asyncio.sleep(0.5)
            continue
        if box is not None:
            try:
                return enrolment.open_answer(parts, nonce, cast(bytes, box))
            except (sealing.CannotOpen, ValueError) as error:
                raise NotEnrolled(
                    "the answer was not made for this token; somebody else writes to the broker"
                ) from error
        await asyncio.sleep(POLL)
    raise NotEnrolled(
        f"no answer from the control plane within {patience:.0f} s. Check that its housekeeping (Celery worker and"
        " beat) runs, that it uses the same broker for this site as --broker says, and that the token was made by it"
    )
