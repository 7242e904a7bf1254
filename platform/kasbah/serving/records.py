"""What crosses the boundary of this app, frozen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from kasbah.audit.services.content import Place


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A deployment as a tenant may use it. `model_digest` in hex; `owned_by` is the model's publisher."""

    id: UUID
    name: str
    model_digest: str
    sites: tuple[UUID, ...]
    engine_settings: dict[str, Any]
    created: datetime
    owned_by: str
    architecture: str = ""  # as config.json names it, such as Qwen3MoeForCausalLM

    @property
    def context(self) -> int:
        """Tokens of the model's context, as it is served."""
        return int(self.engine_settings.get("max_model_len", 2048))


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker that may be heard: its raw Ed25519 public key and whether it takes new jobs.

    `former`: keys that it has just replaced, with the time (seconds since the epoch) until which they still count.
    """

    id: UUID
    site_id: UUID
    name: str
    public_key: bytes
    state: str
    former: tuple[tuple[bytes, float], ...] = ()

    def valid_keys(self) -> tuple[bytes, ...]:
        """The raw public keys under which it may sign now."""
        return (self.public_key, *(key for key, until in self.former if until > time.time()))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What the gateway has decided about one request. `endpoint` is the engine's path, `body` JSON bytes for it.

    `sites` are the compliant ones that serve the deployment: the job never leaves them. `policy` is "<id>@<version>".
    """

    tenant_id: UUID
    project_id: UUID
    api_key_id: UUID
    deployment_id: UUID
    model_digest: str
    request_id: str
    endpoint: str
    body: bytes
    stream: bool
    data_class: str
    policy: str
    sites: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be inserted and offered: `payload` is sealed to each of `sites`, `site` takes the first attempt,
    for which `ticket` is."""

    id: UUID
    tenant_id: UUID
    project_id: UUID
    api_key_id: UUID
    deployment_id: UUID
    model_digest: str
    request_id: str
    endpoint: str
    stream: bool
    data_class: str
    policy: str
    sites: tuple[UUID, ...]
    site: UUID
    owner: str
    payload: bytes
    ticket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one attempt of a job ended; counts only while that attempt is the job's current one."""

    job_id: UUID
    tenant_id: UUID
    attempt: int
    state: str  # one of models.TERMINAL
    prompt_tokens: int = 0
    completion_tokens: int = 0
    exact: bool = True
    error_code: str = ""
    receipt: str = ""
    worker_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledJob:
    """A job that housekeeping has settled: what metering and the audit log need of it."""

    outcome: Outcome
    project_id: UUID
    api_key_id: UUID
    deployment: str
    endpoint: str
    request_id: str
    policy: str
    site_id: UUID | None
    created_at: datetime
    place: Place | None = None  # where the answer is kept, if the policy lets it be
    said: bytes = b""  # the answer, in the form that is committed to
