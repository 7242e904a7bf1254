"""An engine that generates nothing and answers everything: vLLM's wire format on the same Unix socket, fast.

It is started like vLLM (`PROGRAM -m vllm... --model DIR --served-model-name NAME --uds SOCKET ...`) by a wrapper that
`write_program` makes, so it stands wherever an engine's interpreter is asked for. Other flags are accepted and ignored.

What a request does is said in its prompt, between double brackets, so it travels through the whole platform:

    [[tokens=64 delay=0.02 tag=a]]

    tokens=N       tokens of the answer (else max_tokens if it is below 1,000, else 16), never more than max_tokens
    delay=S        seconds before each token (default: the variable FAKE_DELAY, 0)
    tag=T          the answer is " T0 T1 T2 ..." (default tag: "t")
    crash_after=N  the process ends after N tokens (0: before the first)
    error=STATUS   answers this status with vLLM's error body
    refuse=NAME    answers 400 with one of REFUSALS, as vLLM words it
    stream_error=N an error object after N tokens of a stream
    hang           the whole process stops answering (SIGSTOP)

As the child that tries schemas (inference_worker/engine/grammar_child.py) it says of each line what a description in it
wants: [[grammar=l]] late, e, i, b as there; [[grammar=die]] ends; everything else is fine.

Environment (through `write_program`): FAKE_DELAY; FAKE_START_DELAY, seconds until it listens; FAKE_EAT_MIB, memory
taken at once; FAKE_CHILD=1, starts a child that ignores signals, as vLLM's core might; FAKE_JOURNAL, a file to which a
JSON line is written for each start and end of a request: {"event": "start"|"done"|"aborted", "id", "path", "tokens",
"time", "body"}.
`GET /fake` tells the same counts. One prompt token is one word.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httptools
import msgspec

DIRECTIVE = re.compile(r"\[\[(.*?)\]\]")
CREATED = 1_750_000_000
DIMENSIONS = 8
# What vLLM's answers, choices and messages have besides OpenAI's fields; none of it is a client's to see.
OWN = {
    "kv_transfer_params": {"remote_host": "10.0.0.7", "remote_block_ids": [1]},
    "ec_transfer_params": None,
    "prompt_logprobs": None,
    "prompt_token_ids": [1, 2],
    "metrics": {"queue_time": 0.1},
}
OWN_OF_CHOICE = {"token_ids": [7], "routed_experts": "gAAA"}
REFUSALS = {
    "tools": (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', None),
    "path": (400, "Cannot read /srv/models/secret-model/tokenizer.json", "cache_salt"),
    "endpoint": (501, "The model does not support Embeddings API", None),
}
OWN_TEXT = json.dumps(OWN)[1:-1]


def write_program(path: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Write an executable that runs this file with `environment` set; returns `path`."""
    settings = "".join(f"export {name}='{value}'\n" for name, value in (environment or {}).items())
    path.write_text(f'#!/bin/sh\n{settings}exec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Journal:
    """Counts of requests, and a line for each start and end where a file is wanted."""

    def __init__(self, path: str | None) -> None:
        self._file = open(path, "a", buffering=1) if path else None  # noqa: SIM115, PTH123 - lives as long as the process
        self.counts = {"start": 0, "done": 0, "aborted": 0}

    def write(self, event: str, request: Request) -> None:
        self.counts[event] += 1
        if self._file is not None:
            line = {"event": event, "id": request.id, "path": request.path, "tokens": request.sent, "time": time.time()}
            self._file.write(json.dumps({**line, "body": request.body}) + "\n")


class Request:
    """One request, parsed: what it asks for and how far it is."""

    numbers = itertools.count()

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.id = f"fake-{next(self.numbers)}"
        self.path, self.body, self.sent = path, body, 0
        text = _text(body)
        self.options = _options(text)
        self.prompt_tokens = len(text.split())
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        self.tokens = int(self.options.get("tokens", limit if limit and limit < 1000 else 16))
        if limit is not None:
            self.tokens = min(self.tokens, int(limit))
        self.delay = float(self.options.get("delay", os.environ.get("FAKE_DELAY", "0")))
        self.tag = self.options.get("tag", "t")
        self.n = int(body.get("n") or 1)

    def due(self, option: str) -> bool:
        """Whether an option that waits for a number of tokens is due."""
        return option in self.options and self.sent >= int(self.options[option] or 0)


def _text(body: dict[str, Any]) -> str:
    if "messages" in body:
        return " ".join(_content(message.get("content")) for message in body["messages"])
    prompt = body.get("prompt", body.get("input", ""))
    return prompt if isinstance(prompt, str) else " ".join(str(part) for part in prompt)


def _content(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def _options(text: str) -> dict[str, str]:
    found = DIRECTIVE.findall(text)
    return dict(part.partition("=")[::2] for part in found[-1].split()) if found else {}


def _usage(prompt: int, completion: int) -> str:
    total = prompt + completion
    return f'{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion}}}'


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time."""

    def __init__(self, model: str, journal: Journal) -> None:
        self._model, self._journal = model, journal
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, body = self._url.decode(), self._body
        self._url, self._body = b"", b""
        if path == "/health":
            self._answer(200, b"")
        elif path == "/version":
            self._answer(200, b'{"version":"0.0.fake"}')
        elif path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": self._model, "object": "model", "owned_by": "vllm"}]})
        elif path == "/fake":
            self._json(200, self._journal.counts)
        else:
            request = Request(path, msgspec.json.decode(body or b"{}"))
            self._task = asyncio.ensure_future(self._serve(request))

    async def _serve(self, request: Request) -> None:
        self._journal.write("start", request)
        try:
            await self._dispatch(request)
        except asyncio.CancelledError:
            self._journal.write("aborted", request)
            raise
        self._journal.write("done", request)
        self._task = None

    async def _dispatch(self, request: Request) -> None:
        if "hang" in request.options:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "error" in request.options:
            status = int(request.options["error"])
            self._json(status, _error(status, f"asked to fail, 'input': '{_text(request.body)}'", "messages"))
        elif "refuse" in request.options:
            status, message, param = REFUSALS[request.options["refuse"]]
            self._json(status, _error(status, message, param))
        elif request.path == "/tokenize":
            count = request.prompt_tokens
            self._json(
                200, {"count": count, "max_model_len": 2048, "tokens": list(range(count)), "token_strs": None, **OWN}
            )
        elif request.path == "/v1/embeddings":
            self._json(200, _embeddings(request, self._model))
        elif request.path in ("/v1/chat/completions", "/v1/completions"):
            if request.body.get("model") != self._model:
                self._json(404, _error(404, f"The model `{request.body.get('model')}` does not exist.", "model"))
            elif request.body.get("stream"):
                await self._stream(request)
            else:
                await self._whole(request)
        else:
            self._json(404, {"detail": "Not Found"})

    async def _whole(self, request: Request) -> None:
        for _ in range(request.tokens):
            await self._step(request)
        words = "".join(_word(request, i) for i in range(request.tokens))
        chat = request.path.startswith("/v1/chat")
        payload = {"message": {"role": "assistant", "content": words, "citations": []}} if chat else {"text": words}
        rest = {"logprobs": None, "finish_reason": "length", **OWN_OF_CHOICE}
        choices = [{"index": i, **payload, **rest} for i in range(request.n)]
        self._json(200, {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request.id}",
            "object": "chat.completion" if chat else "text_completion",
            "created": CREATED, "model": self._model, "choices": choices,
            "usage": json.loads(_usage(request.prompt_tokens, request.tokens * request.n)),
            **OWN,
        })  # fmt: skip

    async def _step(self, request: Request) -> None:
        """Time passes for one token; what is due, happens."""
        if request.due("crash_after"):
            os._exit(17)
        if request.delay:
            await asyncio.sleep(request.delay)
        request.sent += 1

    async def _stream(self, request: Request) -> None:
        options = request.body.get("stream_options") or {}
        usage = bool(options.get("include_usage"))
        continuous = usage and bool(options.get("continuous_usage_stats"))
        chat = request.path.startswith("/v1/chat")
        prefix, kind = ("chatcmpl", "chat.completion.chunk") if chat else ("cmpl", "text_completion")
        head = f'{{"id":"{prefix}-{request.id}","object":"{kind}","created":{CREATED},"model":"{self._model}",'
        head += '"choices":['
        self._begin_stream()

        own = json.dumps(OWN_OF_CHOICE)[1:-1]

        def chunk(index: int, delta: str, finish: str, count: int) -> str:
            tail = f',"usage":{_usage(request.prompt_tokens, count)}' if continuous else ""
            return (
                f'{head}{{"index":{index},{delta},"logprobs":null,"finish_reason":{finish},{own}}}]{tail},{OWN_TEXT}}}'
            )

        if chat:
            for index in range(request.n):
                self._event(chunk(index, '"delta":{"role":"assistant","content":""}', "null", 0))
        for token in range(request.tokens):
            if request.due("stream_error"):
                self._event(json.dumps(_error(500, "Internal server error", None)))
                break
            await self._step(request)
            finish = '"length"' if token == request.tokens - 1 else "null"
            text = json.dumps(_word(request, token))
            delta = f'"delta":{{"content":{text}}}' if chat else f'"text":{text}'
            for index in range(request.n):
                self._event(chunk(index, delta, finish, token + 1))
        else:
            if usage:
                total = _usage(request.prompt_tokens, request.tokens * request.n)
                self._event(f'{head}],"system_fingerprint":"fake","usage":{total}}}')
        self._event("[DONE]")
        self._write(b"0\r\n\r\n")

    # Writing

    def _begin_stream(self) -> None:
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self._write(b"%x\r\n%b\r\n" % (len(event), event))

    def _json(self, status: int, value: Any) -> None:
        self._answer(status, msgspec.json.encode(value))

    def _answer(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._write(head.encode() + body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _word(request: Request, index: int) -> str:
    return f" {request.tag}{index}"


def _error(status: int, message: str, param: str | None) -> dict[str, Any]:
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _embeddings(request: Request, model: str) -> dict[str, Any]:
    given = request.body.get("input", "")
    texts = [given] if isinstance(given, str) else given
    vectors = [[len(str(text)) / (i + 1) for i in range(DIMENSIONS)] for text in texts]
    encoded: list[Any] = vectors
    if request.body.get("encoding_format") == "base64":
        encoded = [base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode() for vector in vectors]
    data = [{"index": i, "object": "embedding", "embedding": vector} for i, vector in enumerate(encoded)]
    count = request.prompt_tokens
    usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0}
    return {"id": request.id, "object": "list", "created": CREATED, "model": model, "data": data, "usage": usage, **OWN}


async def serve(model: str, socket: str) -> None:
    """Listen until SIGTERM."""
    journal = Journal(os.environ.get("FAKE_JOURNAL"))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_unix_server(lambda: Connection(model, journal), socket)
    print("fake engine listens", flush=True)
    await stop.wait()
    server.close()


def try_grammars() -> None:
    """Stand in for the child that tries schemas."""
    print("ready", flush=True)
    for line in sys.stdin:
        answer = _options(line).get("grammar", "o")
        if answer == "die":
            raise SystemExit(1)
        print(answer, flush=True)


def main() -> None:
    """Entry: the flags of vLLM that count, the others ignored."""
    if sys.argv[1].endswith("grammar_child.py"):
        try_grammars()
        return
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-m", dest="module")
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--uds", required=True)
    arguments, _ = parser.parse_known_args()
    time.sleep(float(os.environ.get("FAKE_START_DELAY", "0")))
    eaten = bytearray(os.urandom(1024)) * (1024 * int(os.environ.get("FAKE_EAT_MIB", "0")))
    if os.environ.get("FAKE_CHILD"):
        subprocess.Popen(["/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"])
    import uvloop

    uvloop.run(serve(arguments.served_model_name, arguments.uds))
    del eaten


if __name__ == "__main__":
    main()
