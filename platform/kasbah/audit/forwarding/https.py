"""OCSF over HTTPS: a POST of one JSON object a line, taken when the answer is 2xx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import httpx

from inference_worker.contract import canonical
from kasbah.audit.export.verifier.ocsf import ocsf_of
from kasbah.audit.forwarding.destination import Destination, Item, NotTaken, context, left

LONGEST_WAIT = 3600.0  # seconds that a receiver may ask for


def line(item: Item) -> bytes:
    """One event in the words of OCSF."""
    event = ocsf_of(item.index or 0, canonical.loads(item.event))
    if item.index is None:
        event["unmapped"]["trial"] = True
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def send(destination: Destination, items: Sequence[Item], deadline: float) -> None:
    """Send, in order. Raises NotTaken, OSError, httpx.HTTPError."""
    asyncio.run(_post(destination, b"".join(line(item) for item in items), deadline))


async def _post(destination: Destination, body: bytes, deadline: float) -> None:
    """In a loop of its own, because only there a receiver that answers drop by drop can be cut off as a whole."""
    headers = {"content-type": "application/x-ndjson", "user-agent": "kasbah"}
    if destination.header_name:
        headers[destination.header_name] = destination.header_value
    seconds = left(deadline)
    # Connecting and TLS have less than half each: cut off in the middle of these, httpx would leave its socket open.
    timeout = httpx.Timeout(seconds, connect=seconds * 0.45)
    async with (
        asyncio.timeout(seconds),
        # No proxy of the environment: that would be another destination.
        httpx.AsyncClient(verify=context(destination), timeout=timeout, trust_env=False) as client,
        client.stream("POST", destination.address, content=body, headers=headers) as answer,
    ):
        if not answer.is_success:  # the body is not read: it may repeat what it was sent
            raise NotTaken(f"it answered {answer.status_code}", _wait(answer.headers.get("retry-after", "")))


def _wait(text: str) -> float:
    """Seconds of a retry-after; dates are not looked at."""
    return min(float(text), LONGEST_WAIT) if text.isdecimal() and len(text) < 10 else 0.0
