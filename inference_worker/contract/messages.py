"""The messages between control plane and worker, as frozen structures that check their types when decoded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from inference_worker.contract.manifest import FileEntry
from inference_worker.contract.signing import BadToken, Purpose, Signer, Verifier

Message = TypeVar("Message", bound=msgspec.Struct)


EGRESS_SHOWN = 16  # destinations in a report


class Ticket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Permission to run one attempt of one job. Times in whole seconds since the epoch, digests in hex."""

    version: int = 1
    job: str
    attempt: int
    tenant: str
    deployment: str
    policy: str  # "<policy id>@<version>"
    data_class: str
    sites: list[str]  # ids of the sites where it may run
    model_digest: str
    payload_sha256: str
    issued: int
    expires: int


class JobMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the Celery message carries (its only argument, as JSON)."""

    job: str
    attempt: int
    ticket: str
    payload: str  # base64url of the sealed payload
    reply_to: str  # owner id of the web process whose multiplexed stream is read


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What is sealed: `path` on the engine ("/v1/chat/completions"), the `body` as JSON bytes, the reply secret."""

    path: str
    body: bytes
    stream: bool
    reply_secret: bytes


class Usage(msgspec.Struct, frozen=True):
    """Tokens as counted by the engine; `exact` is false where an aborted answer could not be counted."""

    prompt_tokens: int
    completion_tokens: int
    exact: bool = True


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker signs about one attempt. Times are RFC 3339 UTC with microseconds."""

    version: int = 1
    job: str
    attempt: int
    tenant: str
    ticket_sha256: str
    policy: str
    site: str
    worker: str
    engine: str  # "vllm 0.32.0"
    model_digest: str
    prompt_tokens: int
    completion_tokens: int
    output_commitment: str  # HMAC-SHA256 of the answer's bytes under a key derived from the reply secret, hex
    outcome: str  # "succeeded" | "failed" | "cancelled"
    started: str
    finished: str


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engine flags of a deployment. `extra` are vLLM's own flags; the worker refuses those that open a door."""

    max_model_len: int = 2048
    max_num_seqs: int = 16
    dtype: str = "auto"
    kv_cache_gib: int = 1
    tensor_parallel_size: int = 1
    extra: list[str] = []


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment that a worker must serve."""

    deployment: str
    name: str  # public model name
    model_digest: str
    manifest: list[FileEntry]
    engine: EngineSettings


class SealedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A private key of the site, sealed for one worker (sealing.seal_site_key)."""

    key_id: str
    box: str  # base64url


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Desired state of one worker, signed by the control plane. `state`: see below.

    "active" | "cordoned" (takes no new jobs) | "drained" (cordoned, and its engines stop when idle) | "revoked".
    """

    worker: str
    revision: int
    state: str
    deployments: list[Assigned]
    issued: int
    control_keys: list[str] = []  # Ed25519, raw, base64url: whose tickets and assignments to believe; []: as before
    site_keys: list[SealedKey] = []  # all that open payloads of the site
    identity: str = ""  # id of the identity key under which the control plane knows the worker
    rotate: str = ""  # id of the identity key that must be replaced


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of one deployment. `state`: "verifying" | "starting" | "ready" | "failed" | "stopping"."""

    deployment: str
    model_digest: str
    state: str
    running: int = 0
    capacity: int = 0
    detail: str = ""  # for people: why it failed, how far it is; never content


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to one destination that a guard refused since the worker's start. `process`: "worker" | "engine"."""

    process: str
    destination: str  # host:port, or name:dns for a look-up; at most 80 characters
    count: int
    first: int
    last: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Heartbeat of a worker, signed with its identity key; also the value of its liveness key."""

    worker: str
    site: str
    sequence: int
    time: int
    state: str
    served: list[Served]
    hardware: dict[str, Any]  # canonical JSON: cpu, cores, memory_bytes, gpus [{name, memory_bytes}]
    engine: str
    start: str = ""  # names this start of the worker; what follows counts from it
    answered: int = 0  # jobs whose whole answer the site's store took
    refused: int = 0  # jobs refused since start
    stale: int = 0  # writes that the fence refused since start
    egress_refused: int = 0  # connections that were not on a list, since start
    egress: list[Egress] = []  # the latest of them, at most EGRESS_SHOWN
    trusts: list[str] = []  # ids of the control plane's keys that it believes
    opens: list[str] = []  # ids of the site's keys that it has


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's new identity: signed by the old key and by the new one (Purpose.IDENTITY). Keys raw, base64url."""

    worker: str
    site: str
    old_key: str  # id
    new_key: str  # Ed25519
    box_key: str  # X25519
    time: int


class RefusalCode(StrEnum):
    """Why a worker would not run a job. No frame follows a refusal: the reply secret lies in the payload, unopened.

    Only `REPLAYED` says nothing about the job itself (the first delivery may be running): record it, settle nothing.
    """

    BAD_MESSAGE = "bad_message"  # not a JobMessage
    BAD_TICKET = "bad_ticket"  # forged, altered, malformed, or for another job or attempt than the message says
    EXPIRED = "ticket_expired"
    REPLAYED = "replayed"
    WRONG_SITE = "wrong_site"
    WRONG_DEPLOYMENT = "wrong_deployment"  # not one that this worker serves
    WRONG_MODEL = "wrong_model"  # the engine has loaded other weights than the ticket names
    PAYLOAD_ALTERED = "payload_altered"  # its digest is not the one in the ticket
    CANNOT_OPEN = "cannot_open"  # sealed for another site, job or key


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a worker would not run, and why; `code` is one of the RefusalCode texts."""

    worker: str
    site: str
    job: str
    attempt: int
    code: str
    time: int


def signed(signer: Signer, purpose: Purpose, message: msgspec.Struct) -> str:
    """The token of a message."""
    return signer.sign(purpose, msgspec.to_builtins(message))


def checked(verifier: Verifier, purpose: Purpose, token: str, kind: type[Message]) -> Message:
    """The message of a token whose signature and types hold. Raises BadToken."""
    try:
        return msgspec.convert(verifier.verify(purpose, token), kind)
    except msgspec.ValidationError as error:
        raise BadToken(f"not a {kind.__name__}: {error}") from error


def sha256_hex(data: bytes | str) -> str:
    """Hex SHA-256; text is taken as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def now() -> int:
    """Whole seconds since the epoch."""
    return int(time.time())


def by_deployment(served: Iterable[Served]) -> dict[str, Served]:
    """Index a report by deployment id."""
    return {item.deployment: item for item in served}
