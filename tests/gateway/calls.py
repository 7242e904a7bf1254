"""Requests as clients make them, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from kasbah.common import rls
from kasbah.metering.models import Usage
from kasbah.serving.models import Job
from tests.factories import Household, events_of
from tests.gateway.stack import Stack

CHAT = "/v1/chat/completions"


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A chat body; `text` may hold directives for the fake engine."""
    return {"model": "mini", "messages": [{"role": "user", "content": text}], **fields}


def post(stack: Stack, who: Household, path: str, body: Any, **headers: str) -> httpx.Response:
    """One request; header names may use underscores. A body that is bytes is sent as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{stack.web.url}{path}", content=content, headers=_headers(who, headers), timeout=30)


def get(stack: Stack, who: Household, path: str, **headers: str) -> httpx.Response:
    """One GET."""
    return httpx.get(f"{stack.web.url}{path}", headers=_headers(who, headers), timeout=30)


def _headers(who: Household, headers: dict[str, str]) -> dict[str, str]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"authorization": f"Bearer {who.key_text}", "content-type": "application/json", **given}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object; fails unless the answer is real JSON with OpenAI's four fields and a request id."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events(lines: Iterator[str]) -> list[dict[str, str]]:
    """Server-sent events as dictionaries of their fields; a comment stands under the key ""."""
    found: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            current[name] = value.removeprefix(" ")
        elif current:
            found.append(current)
            current = {}
    return found


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON chunks of a stream that was read whole; fails unless [DONE] ends it."""
    datas = [event["data"] for event in events(iter(response.text.split("\n"))) if "data" in event]
    assert datas[-1] == "[DONE]"
    return [json.loads(data) for data in datas[:-1]]


def job_of(who: Household, response: httpx.Response) -> Job:
    """The job that a response belongs to."""
    with rls.tenant_scope(who.tenant.id):
        return Job.objects.get(request_id=response.headers["x-request-id"])


def jobs_of(who: Household) -> list[Job]:
    """All jobs of a tenant."""
    with rls.tenant_scope(who.tenant.id):
        return list(Job.objects.filter(tenant=who.tenant).order_by("created_at"))


def usage_of(who: Household) -> list[tuple[int, int]]:
    """(prompt, completion) of each metered job of a tenant, oldest first."""
    with rls.tenant_scope(who.tenant.id):
        rows = Usage.objects.filter(tenant=who.tenant).order_by("id")
        return [(row.prompt_tokens, row.completion_tokens) for row in rows]


def inference_events(who: Household) -> list[dict[str, Any]]:
    """The tenant's inference events, oldest first."""
    return [event for event in events_of(who.tenant.id) if str(event["type"]).startswith("inference.")]
