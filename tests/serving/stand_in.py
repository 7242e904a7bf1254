"""A worker reduced to the contract: it does what a test tells it, step by step, without Celery or an engine."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from inference_worker.contract import frames, keys, scripts, sealing
from inference_worker.contract.frames import Body, Done, Failed, Frame
from inference_worker.contract.messages import (
    Hardware,
    JobMessage,
    Payload,
    Receipt,
    Refusal,
    Report,
    Served,
    Usage,
    now,
    sha256_hex,
    signed,
)
from inference_worker.contract.signing import Purpose, Signer, key_id, unb64

LEASE_MS = 10_000


@dataclass
class Taken:
    """A message that was taken from the queue, opened."""

    message: JobMessage
    payload: Payload
    model_digest: str
    tenant: str
    policy: str
    cipher: sealing.FrameCipher
    sequence: int = 0


@dataclass
class StandIn:
    """One worker at one site. `url` is the site's store."""

    url: str
    worker: str
    site: str
    private: bytes
    site_private: bytes
    deployment: str
    store: Any = field(init=False)

    def __post_init__(self) -> None:
        self.store = redis.Redis.from_url(self.url)
        self.signer = Signer(Ed25519PrivateKey.from_private_bytes(self.private))
        self.sequence = 0

    def encode(self) -> str:
        """For another process."""
        return json.dumps(
            {
                "url": self.url, "worker": self.worker, "site": self.site, "deployment": self.deployment,
                "private": base64.b64encode(self.private).decode(),
                "site_private": base64.b64encode(self.site_private).decode(),
            }
        )  # fmt: skip

    @classmethod
    def decode(cls, text: str) -> StandIn:
        """The reverse."""
        fields = json.loads(text)
        fields |= {name: base64.b64decode(fields[name]) for name in ("private", "site_private")}
        return cls(**fields)

    def close(self) -> None:
        """Give the connection up."""
        self.store.close()

    # --- what it says of itself

    def report(self, *, state: str = "ready", running: int = 0, capacity: int = 8, **changes: Any) -> str:
        """The token of a report."""
        self.sequence += 1
        served = [Served(deployment=self.deployment, model_digest="", state=state, running=running, capacity=capacity)]
        report = Report(
            worker=self.worker, site=self.site, sequence=self.sequence, time=now(), state="active", served=served,
            hardware=Hardware(cores=2), engine="stand-in",
        )  # fmt: skip
        return signed(self.signer, Purpose.REPORT, msgspec.structs.replace(report, **changes))

    def alive(self, seconds: int = 60, **options: Any) -> None:
        """Be seen by capacity and collector."""
        self.store.set(keys.worker(self.worker), self.report(**options), ex=seconds)

    def refuse(self, message: JobMessage, code: str) -> None:
        """Report a refusal."""
        refusal = Refusal(
            worker=self.worker, site=self.site, job=message.job, attempt=message.attempt, code=code, time=now()
        )
        self.store.xadd(keys.REPORTS, {keys.REFUSAL: signed(self.signer, Purpose.REPORT, refusal)})

    # --- a job

    def take(self) -> JobMessage | None:
        """The next message of the queue, as Celery would."""
        envelope = self.store.rpop(keys.queue(self.deployment))
        if envelope is None:
            return None
        body = base64.b64decode(json.loads(envelope)["body"])
        return msgspec.convert(json.loads(body)[0][0], JobMessage)

    def open(self, message: JobMessage) -> Taken:
        """Open the payload."""
        sealed = unb64(message.payload)
        private = X25519PrivateKey.from_private_bytes(self.site_private)
        keys_of_site = {key_id(private.public_key().public_bytes_raw()): private}
        plain = sealing.open_payload(sealed, job=message.job, site=self.site, private=keys_of_site)
        payload = msgspec.msgpack.decode(plain, type=Payload)
        ticket = json.loads(unb64(message.ticket.split(".")[1]))
        cipher = sealing.FrameCipher(payload.reply_secret, message.job, message.attempt)
        return Taken(message, payload, ticket["model_digest"], ticket["tenant"], ticket["policy"], cipher)

    def claim(self, taken: Taken, lease_ms: int = LEASE_MS) -> int:
        """CLAIM."""
        script = self.store.register_script(scripts.CLAIM)
        return int(script(keys=[keys.job(taken.message.job)], args=[taken.message.attempt, self.worker, lease_ms, "n"]))

    def append(self, taken: Taken, *given: Frame) -> int:
        """APPEND these frames as one entry."""
        message = taken.message
        box = taken.cipher.seal(taken.sequence, frames.pack(list(given)))
        last = "1" if frames.is_terminal(given[-1]) else "0"
        answer = self.store.register_script(scripts.APPEND)(
            keys=[keys.job(message.job), keys.frames(message.job, message.attempt), keys.replies(message.reply_to)],
            args=[message.job, message.attempt, self.worker, taken.sequence, box, last, keys.FRAMES_TTL, LEASE_MS],
        )
        taken.sequence += answer == scripts.OK
        return int(answer)

    def done(self, taken: Taken, completion: int = 1, *, cancelled: bool = False, **receipt: Any) -> Done:
        """The last frame, with its receipt; `receipt` overrides what that says."""
        moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        said = Receipt(
            job=taken.message.job, attempt=taken.message.attempt, tenant=taken.tenant,
            ticket_sha256=sha256_hex(taken.message.ticket), policy=taken.policy, site=self.site, worker=self.worker,
            engine="stand-in", model_digest=taken.model_digest, prompt_tokens=1, completion_tokens=completion,
            output_commitment="", outcome="cancelled" if cancelled else "succeeded", started=moment, finished=moment,
        )  # fmt: skip
        token = signed(self.signer, Purpose.RECEIPT, msgspec.structs.replace(said, **receipt))
        return Done(Usage(1, completion), token, cancelled)

    def answer(self, taken: Taken) -> int:
        """A whole answer: the request's body comes back as its text."""
        text = json.loads(taken.payload.body)["messages"][-1]["content"]
        body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        return self.append(taken, Body(body), self.done(taken))

    def fail(self, taken: Taken, *, retry: bool, code: str = "engine_lost") -> int:
        """A failure."""
        return self.append(taken, Failed(503, code, "the engine is away", Usage(0, 0), retry=retry))
