"""What follows from a look at a job's hash."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_worker.contract.messages import RefusalCode
from kasbah.serving.dispatch.sight import TRY_AGAIN, Sight, Verdict, judge

WAITING = Sight(
    attempt=2,
    worker="",
    lease_left_ms=0,
    done=False,
    cancelled=False,
    refused="",
    waited_ms=5000,
    missed_ms=-1,
    after=3,
)
CLAIMED = replace(WAITING, worker="w", lease_left_ms=900)


@pytest.mark.parametrize(
    ("sight", "verdict"),
    [
        (WAITING, Verdict.WAITING),
        (replace(WAITING, missed_ms=500), Verdict.WAITING),  # on its way from the queue to a worker
        (replace(WAITING, missed_ms=1500), Verdict.LOST),
        (CLAIMED, Verdict.RUNNING),
        (replace(CLAIMED, missed_ms=1500), Verdict.RUNNING),
        (replace(CLAIMED, lease_left_ms=-1), Verdict.LOST),
        (replace(CLAIMED, lease_left_ms=-1, done=True), Verdict.DONE),
        (replace(WAITING, attempt=0), Verdict.LOST),  # the store lost it
        (replace(CLAIMED, attempt=1, done=True), Verdict.LOST),  # what an old attempt did does not count
    ],
)
def test_verdicts(sight: Sight, verdict: Verdict) -> None:
    assert judge(sight, 2, grace_ms=1000) is verdict


@pytest.mark.parametrize("code", list(RefusalCode))
def test_refusals(code: RefusalCode) -> None:
    expected = Verdict.LOST if code in TRY_AGAIN else Verdict.REFUSED
    assert judge(replace(WAITING, refused=code), 2, grace_ms=1000) is expected


def test_a_forged_ticket_is_not_tried_again() -> None:
    assert RefusalCode.BAD_TICKET not in TRY_AGAIN
    assert RefusalCode.PAYLOAD_ALTERED not in TRY_AGAIN
