"""Whether the schemas of a request can be made a grammar in time, asked of a child process before the engine is.

One child an engine, started with the first schema. It works on one request at a time, in turns between tenants: one
who sends many waits for himself. What was answered is remembered, for most schemas are sent again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("grammar_child.py")
SECONDS = 5  # of a processor, for all schemas of one request
START = 300.0  # seconds until the child has read the tokenizer
WAIT = 60.0  # seconds for an answer, beyond which the child is ended: its own clock should have ended the work before
REMEMBERED = 4096  # requests' schemas


class Verdict(Enum):
    """What became of a request's schemas; the values are the child's."""

    OK = "o"
    EMPTY = "e"  # no first token is allowed
    INVALID = "i"  # the grammar is refused after the schema was accepted, or is too large
    LATE = "l"  # out of time


class GrammarsUnavailable(ConnectionError):
    """The child does not start, or ended."""


class GrammarGuard:
    """Asks the child; `command` is the engine's interpreter. All of it runs on the event loop."""

    def __init__(self, python: Path, model: Path, environment: Mapping[str, str], seconds: int = SECONDS) -> None:
        self._command = [str(python), str(CHILD), str(model), str(seconds)]
        self._environment = dict(environment)
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._turns = WeakValueDictionary[str, asyncio.Lock]()  # while somebody waits or works
        self._turn = asyncio.Lock()
        self._child: Process | None = None

    async def check(self, tenant: str, schemas: list[Any]) -> Verdict:
        """What becomes of the schemas of one request. Raises GrammarsUnavailable."""
        line = msgspec.json.encode(schemas)
        key = hashlib.sha256(line).digest()
        # A tenant stands once in the queue for the child (a lock is given in the order of asking).
        mine = self._turns.get(tenant) or asyncio.Lock()
        self._turns[tenant] = mine
        async with mine:
            known = self._known.get(key)
            if known is None:
                async with self._turn:
                    known = await self._ask(line)
            self._remember(key, known)
        return known

    async def stop(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _ask(self, line: bytes) -> Verdict:
        try:
            child = self._child or await self._start()
            if child.stdin is None or child.stdout is None:
                raise GrammarsUnavailable("the child has no pipes")
            child.stdin.write(line + b"\n")
            async with asyncio.timeout(WAIT):
                await child.stdin.drain()
                answer = await child.stdout.readline()
            return Verdict(answer.decode().strip())
        except (OSError, TimeoutError, ValueError) as error:
            await self.stop()
            raise GrammarsUnavailable(f"grammars cannot be tried: {type(error).__name__}") from error
        except asyncio.CancelledError:
            await self.stop()  # its next answer would be taken for another's
            raise

    async def _start(self) -> Process:
        child = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=self._environment, start_new_session=True,
        )  # fmt: skip
        self._child = child
        async with asyncio.timeout(START):
            greeting = await child.stdout.readline() if child.stdout is not None else b""
        if greeting.strip() != b"ready":
            raise GrammarsUnavailable("the child did not start")
        return child

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        self._known[key] = verdict
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
