"""The messages between control plane and worker, as frozen structures that check their types when decoded."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from inference_worker.contract.bounds import TOKEN, Attempt, Count, Digest, Id, Label, Line, Seconds, Tokens, Word
from inference_worker.contract.manifest import FileEntry
from inference_worker.contract.signing import BadToken, Purpose, Signer, Verifier

Message = TypeVar("Message", bound=msgspec.Struct)

EGRESS_SHOWN = 16  # destinations in a report
SERVED_SHOWN = 256  # deployments in a report
_PATTERN = re.compile(r" matching regex '.*'")  # what msgspec says of a text; the pattern helps no reader


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

    job: Id
    attempt: Attempt
    ticket: Annotated[str, Meta(max_length=TOKEN)]
    payload: str  # base64url of the sealed payload
    reply_to: Id  # owner id of the web process whose multiplexed stream is read


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What is sealed: `path` on the engine ("/v1/chat/completions"), the `body` as JSON bytes, the reply secret."""

    path: str
    body: bytes
    stream: bool
    reply_secret: bytes


class Usage(msgspec.Struct, frozen=True):
    """Tokens as counted by the engine; `exact` is false where an aborted answer could not be counted."""

    prompt_tokens: Tokens
    completion_tokens: Tokens
    exact: bool = True


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker signs about one attempt. Times are RFC 3339 UTC with microseconds."""

    version: int = 1
    job: Id
    attempt: Attempt
    tenant: Id
    ticket_sha256: Digest
    policy: Label
    site: Id
    worker: Id
    engine: Label  # "vllm 0.32.0"
    model_digest: Digest
    prompt_tokens: Tokens
    completion_tokens: Tokens
    output_commitment: Digest  # HMAC-SHA256 of the answer's bytes under a key derived from the reply secret, hex
    outcome: Word  # "succeeded" | "failed" | "cancelled"
    started: Label
    finished: Label


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
    notices: list[Line] = []  # what the control plane finds wrong with the worker, for its log
    cache_epoch: int = 0  # grows with each erasure on demand: what engines cached of prompts before is found no more


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of one deployment. `state`: "verifying" | "starting" | "ready" | "failed" | "stopping"."""

    deployment: Id
    model_digest: Digest
    state: Word
    running: Tokens = 0
    capacity: Tokens = 0
    detail: Line = ""  # for people: why it failed, how far it is; never content


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to one destination that a guard refused since the worker's start. `process`: "worker" | "engine"."""

    process: Word
    destination: Line  # host:port, or name:dns for a look-up; at most 80 characters
    count: Count
    first: Seconds
    last: Seconds


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator of a machine."""

    name: Line
    memory_bytes: Count


class Hardware(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker runs on."""

    cpu: Line = ""
    cores: Tokens = 0
    memory_bytes: Count = 0
    gpus: Annotated[list[Gpu], Meta(max_length=64)] = []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Heartbeat of a worker, signed with its identity key; also the value of its liveness key."""

    worker: Id
    site: Id
    sequence: Count
    time: Seconds
    state: Word
    served: Annotated[list[Served], Meta(max_length=SERVED_SHOWN)]
    hardware: Hardware
    engine: Label
    start: Id = ""  # names this start of the worker; what follows counts from it
    answered: Count = 0  # jobs whose whole answer the site's store took
    refused: Count = 0  # jobs refused since start
    stale: Count = 0  # writes that the fence refused since start
    egress_refused: Count = 0  # connections that were not on a list, since start
    egress: Annotated[list[Egress], Meta(max_length=EGRESS_SHOWN)] = []  # the latest of them
    trusts: Annotated[list[Id], Meta(max_length=20)] = []  # ids of the control plane's keys that it believes
    opens: Annotated[list[Id], Meta(max_length=20)] = []  # ids of the site's keys that it has
    trouble: Line = ""  # for people: what keeps it from working that no deployment's `detail` says


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's new identity: signed by the old key and by the new one (Purpose.IDENTITY). Keys raw, base64url."""

    worker: Id
    site: Id
    old_key: Id
    new_key: Id  # Ed25519
    box_key: Id  # X25519
    time: Seconds


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

    worker: Id
    site: Id
    job: Id
    attempt: Attempt
    code: Word
    time: Seconds


def signed(signer: Signer, purpose: Purpose, message: msgspec.Struct) -> str:
    """The token of a message."""
    return signer.sign(purpose, msgspec.to_builtins(message))


def checked(verifier: Verifier, purpose: Purpose, token: str, kind: type[Message]) -> Message:
    """The message of a token whose signature, types and bounds hold. Raises BadToken, which names the field."""
    try:
        return msgspec.convert(verifier.verify(purpose, token), kind)
    except msgspec.ValidationError as error:
        what = _PATTERN.sub(" of other characters", str(error))
        raise BadToken(f"not a {kind.__name__}: {what}") from error


def sha256_hex(data: bytes | str) -> str:
    """Hex SHA-256; text is taken as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def now() -> int:
    """Whole seconds since the epoch."""
    return int(time.time())


def by_deployment(served: Iterable[Served]) -> dict[str, Served]:
    """Index a report by deployment id."""
    return {item.deployment: item for item in served}
