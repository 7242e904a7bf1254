"""The first question: asked through the OpenAI SDK, with what the answer says of where it was processed."""

from __future__ import annotations

import json
import socket
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

QUESTION = "What is the capital of France?"
PATIENCE = 600.0  # seconds until the first answer; vLLM with a CUDA build compiles for minutes the first time
# While no worker serves the model yet: 503 (none there), 404 is an error of ours, 429 our own limits.
RETRIED = {429, 502, 503, 504}


class Unanswered(RuntimeError):
    """No answer came; the message says what came instead."""


@dataclass(frozen=True)
class Answer:
    """Text of the answer, the response's headers, and the signed receipt as the management API returns it."""

    text: str
    headers: Mapping[str, str]
    receipt: Mapping[str, Any]


def reachable(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def ask(address: str, key: str, model: str, waiting: Callable[[str], None]) -> Answer:
    """Ask until a worker answers; `waiting` is called about once a second meanwhile. Raises Unanswered."""
    import openai

    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=120.0)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": QUESTION}], max_tokens=48, temperature=0
            )
            break
        except openai.APIStatusError as error:
            if error.status_code not in RETRIED or time.monotonic() > deadline:
                raise Unanswered(f"the first question was answered with status {error.status_code}: {error}") from error
            reason = "waiting for the engine"
        except openai.APIConnectionError as error:
            if time.monotonic() > deadline:
                raise Unanswered(f"the control plane at {address} cannot be reached: {error}") from error
            reason = "waiting for the control plane"
        waiting(reason)
        time.sleep(1.0)
    completion = raw.parse()
    headers = {name.lower(): value for name, value in raw.headers.items()}
    return Answer(completion.choices[0].message.content or "", headers, receipt(address, key, headers))


def receipt(address: str, key: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
    """The signed receipt of the request that `headers` belong to. Raises Unanswered."""
    import httpx

    request = headers.get("x-request-id", "")
    response = httpx.get(f"{address}/api/receipts/{request}", headers={"Authorization": f"Bearer {key}"}, timeout=30)
    if response.status_code != 200:
        raise Unanswered(f"the receipt of request {request} was answered with status {response.status_code}")
    found: Mapping[str, Any] = response.json()
    return found


def report(answer: Answer) -> Iterator[str]:
    """Lines for people."""
    site = answer.receipt.get("site") or {}
    said = {"kasbah-site": f"at site {site['slug']} ({site['jurisdiction']})"} if "jurisdiction" in site else {}
    yield f"  Question   {QUESTION}"
    yield from textwrap.wrap(
        " ".join(answer.text.split()), 100, initial_indent="  Answer     ", subsequent_indent=" " * 13
    )
    for title, header in {
        "Processed": "kasbah-site",
        "Policy": "kasbah-policy-version",
        "Model": "kasbah-model-digest",
        "Request": "x-request-id",
    }.items():
        yield f"  {title:<10} {said.get(header, answer.headers.get(header, 'not said'))}"
    yield "  Receipt    signed by the worker; docs/auditor/receipts.md says how to check it:"
    yield textwrap.indent(json.dumps(answer.receipt, indent=2, ensure_ascii=False), " " * 13)
