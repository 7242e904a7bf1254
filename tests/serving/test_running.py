"""Frames put in order; nothing handed on that another attempt could contradict."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from inference_worker.contract import frames as contract_frames
from inference_worker.contract.frames import Body, Data, Done, Failed, Frame, Role
from inference_worker.contract.messages import Usage
from inference_worker.contract.sealing import FrameCipher
from kasbah.serving.dispatch.running import Fed, Running
from kasbah.serving.records import NewJob

SECRET = b"s" * 32
DONE = Done(Usage(3, 4), "receipt")


def make(*, stream: bool = True) -> Running:
    ids: dict[str, Any] = {
        name: uuid4() for name in ("id", "tenant_id", "project_id", "api_key_id", "deployment_id", "site")
    }
    job = NewJob(
        **ids, sites=(ids["site"],), model_digest="", request_id="r", endpoint="/v1/chat/completions", stream=stream,
        data_class="internal", policy="p@1", owner="o", payload=b"", ticket="t",
    )  # fmt: skip

    async def nothing(_: Running) -> None:
        return

    return Running(job, SECRET, nothing, lambda _: None)


class Writer:
    """A worker's side of one attempt."""

    def __init__(self, running: Running, attempt: int = 1) -> None:
        self._cipher = FrameCipher(SECRET, running.key, attempt)

    def seal(self, sequence: int, *given: Frame) -> bytes:
        return self._cipher.seal(sequence, contract_frames.pack(list(given)))


async def handed_on(running: Running) -> list[Frame]:
    """What the consumer gets without waiting."""
    try:
        async with asyncio.timeout(0.01):
            return await anext(running.frames())
    except TimeoutError:
        return []


async def test_a_stream_is_held_until_its_first_content() -> None:
    running = make()
    writer = Writer(running)
    assert running.feed(1, 0, writer.seal(0, Role(b"r"))) is Fed.TAKEN
    assert await handed_on(running) == []
    assert not running.relayed
    running.feed(1, 1, writer.seal(1, Data(b"1")))
    assert await handed_on(running) == [Role(b"r"), Data(b"1")]
    assert running.relayed


async def test_an_answer_that_does_not_stream_is_held_to_its_end() -> None:
    running = make(stream=False)
    writer = Writer(running)
    running.feed(1, 0, writer.seal(0, Body(b"{}")))
    assert await handed_on(running) == []
    running.feed(1, 1, writer.seal(1, DONE))
    assert running.terminal == DONE
    running.finish(DONE)
    assert await handed_on(running) == [Body(b"{}"), DONE]


async def test_order_gaps_and_repetitions() -> None:
    running = make()
    writer = Writer(running)
    entries = [writer.seal(number, Data(b"%d" % number)) for number in range(4)]
    assert running.feed(1, 0, entries[0]) is Fed.TAKEN
    assert running.feed(1, 2, entries[2]) is Fed.GAP
    assert running.feed(1, 0, entries[0]) is Fed.OLD
    for number in (1, 2, 3):
        assert running.feed(1, number, entries[number]) is Fed.TAKEN
    assert await handed_on(running) == [Data(b"0"), Data(b"1"), Data(b"2"), Data(b"3")]


@pytest.mark.parametrize("how", ["altered", "moved", "other secret"])
async def test_what_was_tampered_with_is_not_taken(how: str) -> None:
    running = make()
    writer = Writer(running)
    if how == "altered":
        box = bytearray(writer.seal(0, Data(b"x")))
        box[-1] ^= 1
        entry = bytes(box)
    elif how == "moved":
        entry = writer.seal(1, Data(b"x"))
    else:
        entry = FrameCipher(b"t" * 32, running.key, 1).seal(0, contract_frames.pack([Data(b"x")]))
    assert running.feed(1, 0, entry) is Fed.BAD
    assert await handed_on(running) == []
    assert running.feed(1, 0, writer.seal(0, Data(b"x"))) is Fed.TAKEN


async def test_two_writers_of_one_attempt_are_not_mixed() -> None:
    running = make()
    first, second = Writer(running), Writer(running)
    assert running.feed(1, 0, first.seal(0, Data(b"first"))) is Fed.TAKEN
    assert running.feed(1, 1, second.seal(1, Data(b"second"))) is Fed.BAD


async def test_a_new_attempt_forgets_the_old_one() -> None:
    running = make()
    old, new = Writer(running), Writer(running, 2)
    running.feed(1, 0, old.seal(0, Role(b"old")))
    running.again(2, running.site, "t2")
    assert running.feed(1, 1, old.seal(1, Data(b"old"))) is Fed.OLD
    assert running.feed(2, 0, new.seal(0, Role(b"new"), Data(b"new"))) is Fed.TAKEN
    assert await handed_on(running) == [Role(b"new"), Data(b"new")]


async def test_while_a_new_attempt_is_made_the_old_one_is_not_heard() -> None:
    running = make()
    writer = Writer(running)
    running.moving = True
    assert running.feed(1, 0, writer.seal(0, Data(b"late"))) is Fed.OLD


async def test_a_failure_before_anything_was_handed_on_stands_alone() -> None:
    running = make()
    writer = Writer(running)
    running.feed(1, 0, writer.seal(0, Role(b"r")))
    failed = Failed(400, "invalid_request", "no", Usage(0, 0))
    running.finish(failed)
    assert await handed_on(running) == [failed]


async def test_it_ends_once() -> None:
    running = make()
    running.finish(DONE)
    running.fail(503, "worker_lost", "late")
    assert await handed_on(running) == [DONE]
    assert running.terminal == DONE


@pytest.mark.parametrize(
    ("frame", "state", "code"),
    [
        (DONE, "succeeded", ""),
        (Done(Usage(1, 1), "r", cancelled=True), "cancelled", ""),
        (Failed(500, "engine_error", "m", Usage(1, 0)), "failed", "engine_error"),
        (Failed(403, "refused_by_worker", "m", Usage(0, 0)), "refused", "refused_by_worker"),
    ],
)
async def test_outcomes(frame: Done | Failed, state: str, code: str) -> None:
    outcome = make().outcome(frame)
    assert (outcome.state, outcome.error_code, outcome.attempt) == (state, code, 1)
    assert outcome.completion_tokens == frame.usage.completion_tokens
