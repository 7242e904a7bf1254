"""A worker's first start: it proves that it holds the token, and learns who it is (contract/enrolment.py)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from inference_worker.contract import enrolment, keys, sealing
from inference_worker.contract.signing import BadToken, b64, fingerprint
from inference_worker.identity import State

PATIENCE = 30.0  # seconds until the control plane must have answered
PENDING_EVERY = 2.0  # seconds between two questions whether a person has approved
POLL = 0.2


log = logging.getLogger(__name__)


class NotEnrolled(RuntimeError):
    """The worker could not enrol; the message says why and what to do."""


class Unanswered(NotEnrolled):
    """Nobody answered in time, or the broker is away: another try may succeed."""


async def enrol(redis: Redis, state: State, *, token: str, site: str, name: str, patience: float = PATIENCE) -> None:
    """Enrol, wait for the approval and keep the identity in `state`. Raises NotEnrolled.

    The approval may take days: from the first answer on, a broker or control plane that is away is waited for.
    """
    try:
        parts = enrolment.parse_token(token)
    except (BadToken, ValueError) as error:
        text = f"the enrolment token is not one: it starts with {enrolment.PREFIX} and has 68 characters; copy it whole"
        raise NotEnrolled(text) from error
    public = state.signer().public.public_bytes_raw()
    about = (name, site, b64(public), b64(state.box_key().public_key().public_bytes_raw()))
    answer = await _ask(redis, parts, about, patience)
    if answer.pending:
        log.warning(
            "this worker waits for approval. Compare its fingerprint %s, then run on the control plane:"
            " manage.py workers approve %s", fingerprint(public), answer.worker
        )  # fmt: skip
        answer = await _approval(redis, parts, about, patience)
        log.info("approved")
    state.keep(answer, site)


async def _approval(
    redis: Redis, parts: enrolment.EnrolmentSecret, about: tuple[str, str, str, str], patience: float
) -> enrolment.Answer:
    """Ask again and again until a person has decided. Raises NotEnrolled when it was rejected."""
    while True:
        await asyncio.sleep(PENDING_EVERY)
        try:
            answer = await _ask(redis, parts, about, patience)
        except Unanswered as error:
            log.warning("still waiting for approval: %s", error)
            continue
        if not answer.pending:
            return answer


async def _ask(
    redis: Redis, parts: enrolment.EnrolmentSecret, about: tuple[str, str, str, str], patience: float
) -> enrolment.Answer:
    """One question under a nonce of its own; `about` is name, site and public keys. Raises NotEnrolled."""
    name, site, key, box = about
    nonce = secrets.token_urlsafe(16)
    request = enrolment.Request(name=name, site=site, public_key=key, box_key=box, nonce=nonce)
    answer = await _exchange(redis, parts, nonce, enrolment.seal_request(parts, request), patience)
    if answer.error:
        raise NotEnrolled(f"the control plane refused: {answer.error}")
    return answer


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
                "the store refuses the password or user in its URL; check KASBAH_STORE_URL, or KASBAH_BROKER_URL"
            ) from error
        except (RedisError, OSError) as error:
            if time.monotonic() + 1 >= deadline:
                raise Unanswered(
                    f"the site's store cannot be reached ({type(error).__name__}); check --store (KASBAH_STORE_URL),"
                    " or --broker (KASBAH_BROKER_URL) where that is the store too, and that it runs"
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
    raise Unanswered(
        f"no answer from the control plane within {patience:.0f} s. Check that its housekeeping (Celery worker and"
        " beat) runs, that it uses the same store for this site as this worker, and that the token was made by it"
    )
