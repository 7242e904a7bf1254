"""What a look at a job's hash shows, and what follows from it. Pure; dispatcher and sweeper judge alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from inference_worker.contract.messages import RefusalCode
from kasbah.serving.dispatch.store import DIGITS

# Another worker, or the same one with a new ticket, may do what this one would not.
TRY_AGAIN = frozenset(
    {
        RefusalCode.EXPIRED,
        RefusalCode.WRONG_MODEL,
        RefusalCode.WRONG_DEPLOYMENT,
        RefusalCode.WRONG_SITE,
    }
)


@dataclass(frozen=True, slots=True)
class Sight:
    """The answer of LOOK. `attempt` 0: the store does not know the job."""

    attempt: int
    worker: str
    lease_left_ms: int
    done: bool
    cancelled: bool
    refused: str
    waited_ms: int  # since the attempt was offered
    missed_ms: int  # since the message was first found not to be in its queue, and unclaimed; -1: it was not
    after: int  # messages put into the queue after it; -1: it was not put there for certain

    @classmethod
    def of(cls, answer: list[Any]) -> Sight:
        """From the answer of the script; what nobody here can have written counts as unknown to the store."""
        attempt, worker, left, done, cancelled, refused, waited, missed, after = answer
        known = attempt.isdigit() and len(attempt) <= DIGITS
        try:
            holder = str(UUID(worker.decode())) if worker else ""
        except ValueError:
            known, holder = False, ""
        return cls(
            attempt=int(attempt) if known else 0,
            worker=holder,
            lease_left_ms=int(left),
            done=bool(done),
            cancelled=bool(cancelled),
            refused=refused.decode("ascii", "replace"),
            waited_ms=int(waited),
            missed_ms=int(missed),
            after=int(after),
        )


class Verdict(Enum):
    """What to do about a job."""

    RUNNING = "running"  # a worker holds it
    WAITING = "waiting"  # in its queue
    DONE = "done"  # its terminal frame lies in the store
    LOST = "lost"  # by its worker, its broker or its store: a new attempt
    REFUSED = "refused"  # and nobody else would run it either


def judge(sight: Sight, attempt: int, *, grace_ms: int) -> Verdict:
    """`attempt`: the row's; `grace_ms`: how long a message may be on its way between queue and claim."""
    if sight.attempt != attempt:
        # Lower or none: the store lost what was offered. Higher cannot be: attempts are raised in the row first.
        return Verdict.LOST
    if sight.done:
        return Verdict.DONE
    if sight.refused:
        return Verdict.LOST if sight.refused in TRY_AGAIN else Verdict.REFUSED
    if sight.worker:
        return Verdict.RUNNING if sight.lease_left_ms > 0 else Verdict.LOST
    if sight.missed_ms > grace_ms:
        return Verdict.LOST
    return Verdict.WAITING
