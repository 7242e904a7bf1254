"""Schemas are tried in a child process before the engine sees them: what is late or empty is a 400 at once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_worker.contract.frames import Body, Failed
from inference_worker.engine import grammar_child, grammars
from inference_worker.engine.grammars import GrammarGuard, GrammarsUnavailable, Verdict
from inference_worker.stream import request
from tests.fakes.engine import write_program
from tests.inference_worker.harness import Serving, chat


def schema(wish: str) -> dict[str, Any]:
    return {"type": "object", "description": f"[[grammar={wish}]]"}


def in_format(wish: str) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema(wish)}}}


def in_tool(wish: str, **fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema(wish), **fields}}]}


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[GrammarGuard]:
    made = GrammarGuard(write_program(tmp_path / "engine"), tmp_path, {})
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("wish", "code"), [("l", "schema_too_complex"), ("i", "invalid_schema"), ("e", "invalid_schema")]
)
@pytest.mark.parametrize(
    "place",
    [
        in_format,
        lambda wish: in_tool(wish) | {"tool_choice": "required"},
        lambda wish: in_tool(wish) | {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        lambda wish: in_tool(wish, strict=True),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_that_is_refused_never_reaches_the_engine(
    serving: Serving, wish: str, code: str, place: Any, stream: bool
) -> None:
    sent, given = serving.ask(chat(f"[[tokens=1 tag={wish}]]", **place(wish)), stream=stream)
    failed = given[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.retry) == (400, code, False)
    assert (failed.usage.prompt_tokens, failed.usage.completion_tokens) == (0, 0)
    assert sent is not None
    assert not [line for line in serving.worker.journal if f"tag={wish}]]" in str(line["body"])]


def test_other_schemas_go_to_the_engine(serving: Serving) -> None:
    for fields in (in_format("o"), in_tool("l"), in_tool("l") | {"tool_choice": "none"}):
        _, given = serving.ask(chat("[[tokens=1]]", **fields), stream=False)
        assert isinstance(given[0], Body), given[0]


def tried(fields: dict[str, Any]) -> list[Any]:
    return request.schemas_of({name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()})


def test_only_schemas_that_become_grammars_are_tried() -> None:
    assert tried(chat("x", **in_format("l"))) == [schema("l")]
    assert tried(chat("x", **in_tool("l"))) == []
    other = {"tool_choice": {"type": "function", "function": {"name": "g"}}}
    assert tried(chat("x", **in_tool("l"), **other)) == []
    assert tried(chat("x", response_format={"type": "json_object"}, tools=None)) == []


def test_a_child_that_dies_is_started_again_and_the_job_goes_elsewhere(serving: Serving) -> None:
    _, given = serving.ask(chat("[[tokens=1]]", **in_format("die")), stream=False)
    failed = given[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retry) == ("worker_failed", True)
    _, given = serving.ask(chat("[[tokens=1]]", **in_format("o")), stream=False)
    assert isinstance(given[0], Body)


async def test_a_verdict_is_remembered(guard: GrammarGuard) -> None:
    assert await guard.check("a", [schema("l")]) is Verdict.LATE
    await guard.stop()
    guard._command[0] = "/nowhere"
    assert await guard.check("b", [schema("l")]) is Verdict.LATE
    with pytest.raises(GrammarsUnavailable):
        await guard.check("b", [schema("o")])


async def test_who_sends_many_waits_for_himself(guard: GrammarGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def slowly(line: bytes) -> Verdict:
        order.append(line.decode()[2:3])
        await asyncio.sleep(0.01)
        return Verdict.OK

    monkeypatch.setattr(guard, "_ask", slowly)
    many = [asyncio.create_task(guard.check("many", [f"m{number}"])) for number in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(guard.check("other", ["o"]), *many)
    assert order.index("o") <= 2
    assert not list(guard._turns)


async def test_memory_of_verdicts_is_bounded(guard: GrammarGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "REMEMBERED", 3)
    for number in range(6):
        await guard.check("a", [{"title": str(number)}])
    assert len(guard._known) == 3


async def test_a_caller_that_leaves_takes_no_answer_of_another(guard: GrammarGuard) -> None:
    await guard.check("a", [schema("o")])
    leaving = asyncio.create_task(guard.check("a", [schema("l")]))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await guard.check("b", [schema("e")]) is Verdict.EMPTY


def test_a_fork_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: Any) -> int:
        while True:
            pass

    monkeypatch.setattr(grammar_child, "compile_all", endless)
    monkeypatch.setattr(grammar_child, "PATIENCE", 60)
    assert grammar_child.verdict([], None, 1) == grammar_child.LATE


def test_a_fork_that_gets_no_processor_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_child, "compile_all", lambda *_: time.sleep(60))
    monkeypatch.setattr(grammar_child, "PATIENCE", 1)
    assert grammar_child.verdict([], None, 1) == grammar_child.BUSY


@pytest.mark.parametrize(("status", "verdict"), [(0, "o"), (3, "e"), (4, "i"), (1, "l")])
def test_a_fork_says_by_its_status_what_became_of_it(
    status: int, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_child, "compile_all", lambda *_: status)
    assert grammar_child.verdict([], None, 5) == verdict
    assert {item.value for item in Verdict} == {grammar_child.OK, grammar_child.EMPTY, *"il"}


def test_a_fork_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_child, "MEMORY", 64 * 2**20)
    monkeypatch.setattr(grammar_child, "compile_all", lambda *_: len(bytearray(512 * 2**20)))
    assert grammar_child.verdict([], None, 5) == grammar_child.INVALID
    assert sys.platform == "linux"
