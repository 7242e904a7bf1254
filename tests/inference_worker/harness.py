"""A worker as a child process, and a control plane of a few lines that hands it work.

    with valkey(home) as server, ControlPlane(server.url) as control:
        with start_worker(server.url, home / "w1", token=control.token(), models=models) as worker:
            control.assign(worker.id, control.deployment(models))
            worker.await_ready()
            sent = control.submit(deployment, chat("[[tokens=3]] hello"), stream=True)
            frames = control.frames(sent)

`start_worker` alone serves tests and benchmarks that have the real control plane: give it the broker's URL and a token.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from inference_worker.contract import enrolment, frames, keys, manifest, scripts, sealing
from inference_worker.contract.messages import (
    Assigned,
    Assignment,
    EngineSettings,
    JobMessage,
    Payload,
    Refusal,
    Report,
    SealedKey,
    Ticket,
    checked,
    now,
    sha256_hex,
    signed,
)
from inference_worker.contract.signing import Purpose, Signer, Verifier, b64, unb64
from tests.fakes.engine import write_program

ROOT = Path(__file__).resolve().parents[2]
SITE = "paris"
T = TypeVar("T")


def wait_for(what: Callable[[], T], timeout: float = 10.0, *, every: float = 0.02) -> T:
    """The first true answer of `what`; fails when none comes in time."""
    deadline = time.monotonic() + timeout
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain"
        time.sleep(every)
    return answer


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """Body of a chat request with one message."""
    return {"model": "any", "messages": [{"role": "user", "content": text}], **fields}


def model_folder(models: Path, content: bytes = b"weights") -> tuple[str, list[manifest.FileEntry]]:
    """A model of one file, in a folder named by its digest."""
    new = models / f"new-{uuid.uuid4().hex}"
    new.mkdir(parents=True)
    (new / "model.safetensors").write_bytes(content)
    entries = manifest.manifest_of(new)
    digest = manifest.digest_of(entries)
    if (models / digest).exists():
        (new / "model.safetensors").unlink()
        new.rmdir()
    else:
        new.rename(models / digest)
    return digest, entries


@dataclass
class RunningWorker:
    """A worker process. `journal` is what its fake engines write (tests/fakes/engine.py)."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    log_file: Path
    journal_file: Path
    store: redis.Redis

    @property
    def id(self) -> str:
        """Its id, once it is enrolled."""
        file = self.state_dir / "identity.json"
        wait_for(lambda: file.exists() or self.process.poll() is not None, 20)
        assert file.exists(), self.log
        return str(json.loads(file.read_text())["worker"])

    @property
    def log(self) -> str:
        """What it wrote to its standard error."""
        return self.log_file.read_text(errors="replace")

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Starts and ends of the requests that its engines got, without the worker's own probes."""
        if not self.journal_file.exists():
            return []
        lines = (json.loads(line) for line in self.journal_file.read_text().splitlines())
        return [line for line in lines if line["body"].get("prompt") != "a"]

    def ended(self, event: str) -> list[dict[str, Any]]:
        """The journal's lines of one kind."""
        return [line for line in self.journal if line["event"] == event]

    def report(self) -> Report | None:
        """What it last said of itself, its signature not checked."""
        token = self.store.get(keys.worker(self.id))
        if not isinstance(token, bytes):
            return None
        return msgspec.json.decode(unb64(token.decode().split(".")[1]), type=Report)

    def states(self) -> dict[str, str]:
        """State of each deployment."""
        report = self.report()
        return {served.deployment: served.state for served in report.served} if report else {}

    def await_ready(self, count: int = 1, timeout: float = 20.0) -> None:
        """Until `count` engines are ready, and their queues consumed."""
        wait_for(lambda: list(self.states().values()).count("ready") >= count, timeout)

    def stop(self, timeout: float = 40.0) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout)

    def descendants(self) -> list[int]:
        """Processes below it: keepers, engines and their children."""
        return list(_children(self.process.pid))


def _children(pid: int) -> Iterator[int]:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from _children(child)


def alive(pids: list[int]) -> list[int]:
    """Those that still run (a zombie does not)."""
    running = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.append(pid)
    return running


@contextlib.contextmanager
def start_worker(
    valkey_url: str,
    folder: Path,
    *,
    token: str = "",
    models: Path,
    site: str = SITE,
    engine_python: Path | None = None,
    engine_environment: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
    log_level: str = "info",
    broker: str = "",
    launcher: Sequence[str] = (),
) -> Iterator[RunningWorker]:
    """Run `python -m inference_worker` with its state in `folder`; SIGKILL and clean up at the end.

    Without `engine_python` its engines are fakes (tests/fakes/engine.py), configured by `engine_environment`.
    A second start with the same `folder` needs no token. With `broker` the jobs come from there, and the Valkey is the
    store alone. `launcher` is put before the command, as `ip netns exec NAME` is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models.mkdir(parents=True, exist_ok=True)
    journal = folder / "journal"
    if engine_python is None:
        environment = {"FAKE_JOURNAL": str(journal), **(engine_environment or {})}
        engine_python = write_program(folder / "engine", environment)
    command = [
        *launcher, sys.executable, "-m", "inference_worker", "--site", site, "--state-dir", str(folder / "state"),
        "--models", str(models), "--engine-python", str(engine_python), "--name", folder.name,
        "--log-level", log_level, *arguments,
    ]  # fmt: skip
    kept = {"KASBAH_LEASE_MS"}
    inherited = {name: value for name, value in os.environ.items() if name in kept or not name.startswith("KASBAH_")}
    secrets = {"KASBAH_BROKER_URL": broker or valkey_url} | ({"KASBAH_STORE_URL": valkey_url} if broker else {})
    secrets |= {"KASBAH_ENROL_TOKEN": token} if token else {}
    log_file = folder / "worker.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=inherited | secrets, stderr=log, stdout=log)
    store = redis.Redis.from_url(valkey_url)
    worker = RunningWorker(process, folder / "state", log_file, journal, store)
    try:
        yield worker
    finally:
        left = worker.descendants()
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(10)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not alive(left), 5)
        store.close()


@dataclass
class Sent:
    """A job that was handed out."""

    job: str
    attempt: int
    ticket: str
    message: JobMessage
    reply_secret: bytes = field(repr=False)


@dataclass
class Grant:
    """An enrolment token: its secret, and the error that answers whoever uses it (empty: enrolled)."""

    secret: bytes
    error: str = ""


class ControlPlane:
    """Enrols workers, assigns deployments, hands out jobs and reads their frames. Everything in memory."""

    def __init__(self, url: str, *, site: str | None = None) -> None:
        self.url = url
        self.store = redis.Redis.from_url(url)
        self.signer = Signer(Ed25519PrivateKey.generate())
        self.site = site or str(uuid.uuid4())
        self.site_key = X25519PrivateKey.generate()
        self.workers: dict[str, Verifier] = {}
        self.boxes: dict[str, X25519PublicKey] = {}
        self.owner = uuid.uuid4().hex
        self._grants: dict[str, Grant] = {}
        self._revision = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._enrol, daemon=True)

    def __enter__(self) -> ControlPlane:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.store.close()

    # Enrolment

    def token(self, error: str = "") -> str:
        """A fresh enrolment token; with `error`, whoever uses it is told so."""
        token_id = str(uuid.uuid4())
        text, secret = enrolment.new_token(token_id)
        self._grants[token_id] = Grant(secret, error)
        return text

    def _enrol(self) -> None:
        last = "0"
        while not self._stop.is_set():
            try:
                entries: Any = self.store.xread({keys.REPORTS: last}, count=100, block=50)
            except redis.RedisError:
                time.sleep(0.05)
                continue
            for entry, fields in entries[0][1] if entries else []:
                last = entry
                if keys.ENROL.encode() in fields:
                    self._answer(fields[keys.ENROL.encode()])

    def _answer(self, sealed: bytes) -> None:
        envelope = msgspec.msgpack.decode(sealed, type=enrolment.Envelope)
        grant = self._grants.get(envelope.token_id)
        if grant is None:
            return
        request = enrolment.open_request(envelope, grant.secret)
        answer = enrolment.Answer(nonce=request.nonce, error=grant.error)
        if not grant.error:
            grant.error = "the token was used before; make another"
            worker = str(uuid.uuid4())
            self.workers[worker] = Verifier.from_raw(unb64(request.public_key))
            self.boxes[worker] = X25519PublicKey.from_public_bytes(unb64(request.box_key))
            answer = enrolment.Answer(
                nonce=request.nonce,
                worker=worker,
                site=self.site,
                control_keys=[b64(self.signer.public.public_bytes_raw())],
            )
        self.store.set(keys.enrolment_answer(request.nonce), enrolment.seal_answer(grant.secret, answer), ex=60)

    # Assignment

    @staticmethod
    def deployment(models: Path, name: str = "demo", content: bytes = b"weights", **engine: Any) -> Assigned:
        """A deployment of a one-file model."""
        digest, entries = model_folder(models, content)
        return Assigned(
            deployment=str(uuid.uuid4()), name=name, model_digest=digest, manifest=entries,
            engine=EngineSettings(**engine),
        )  # fmt: skip

    def assign(
        self,
        worker: str,
        *deployments: Assigned,
        state: str = "active",
        revision: int | None = None,
        site_keys: Sequence[X25519PrivateKey] | None = None,
        **fields: Any,
    ) -> None:
        """Sign and publish what a worker must do; `site_keys` are those that it gets, by default the site's one."""
        self._revision = self._revision + 1 if revision is None else revision
        given = [self.site_key] if site_keys is None else site_keys
        assignment = Assignment(
            worker=worker, revision=self._revision, state=state, deployments=list(deployments), issued=now(),
            site_keys=[self.sealed_key(worker, key) for key in given if worker in self.boxes], **fields,
        )  # fmt: skip
        self.store.set(keys.assignment(worker), signed(self.signer, Purpose.ASSIGNMENT, assignment))

    def sealed_key(self, worker: str, key: X25519PrivateKey) -> SealedKey:
        """A key of the site for one worker."""
        name, box = sealing.seal_site_key(key, worker=worker, site=self.site, box_key=self.boxes[worker])
        return SealedKey(key_id=name, box=b64(box))

    # Jobs

    def prepare(
        self,
        deployment: Assigned,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = "/v1/chat/completions",
        stream: bool = True,
        tenant: str = "tenant-a",
        job: str = "",
        attempt: int = 1,
        ticket: Mapping[str, Any] | None = None,
    ) -> Sent:
        """A job with its ticket, sealed, not yet handed out; `ticket` overrides what the ticket says."""
        job, secret = job or str(uuid.uuid4()), os.urandom(32)
        raw = body if isinstance(body, bytes) else json.dumps(dict(body)).encode()
        payload = Payload(path=path, body=raw, stream=stream, reply_secret=secret)
        plain = msgspec.msgpack.encode(payload)
        sealed = sealing.seal_payload(plain, job=job, sites={self.site: self.site_key.public_key()})
        fields: dict[str, Any] = {
            "job": job, "attempt": attempt, "tenant": tenant, "deployment": deployment.deployment,
            "policy": "policy@1", "data_class": "internal", "sites": [self.site],
            "model_digest": deployment.model_digest, "payload_sha256": sha256_hex(sealed),
            "issued": now(), "expires": now() + 600,
        }  # fmt: skip
        token = signed(self.signer, Purpose.TICKET, Ticket(**{**fields, **(ticket or {})}))
        message = JobMessage(job=job, attempt=attempt, ticket=token, payload=b64(sealed), reply_to=self.owner)
        return Sent(job, attempt, token, message, secret)

    def offer(self, sent: Sent, deployment: Assigned) -> Sent:
        """Hand a job out: the job's hash and the Celery message in one step."""
        offer = self.store.register_script(scripts.OFFER)
        envelope = celery_envelope(sent.message, keys.queue(deployment.deployment))
        queue = keys.queue(deployment.deployment)
        offer(keys=[keys.job(sent.job), queue], args=[sent.attempt, keys.JOB_TTL, envelope])
        return sent

    def submit(self, deployment: Assigned, body: Mapping[str, Any] | bytes, **options: Any) -> Sent:
        """`prepare` and `offer`."""
        return self.offer(self.prepare(deployment, body, **options), deployment)

    def cancel(self, sent: Sent) -> None:
        """The client went away."""
        self.store.register_script(scripts.CANCEL)(keys=[keys.job(sent.job)])

    def entries(self, sent: Sent) -> list[tuple[int, bytes]]:
        """What lies in the stream of the attempt: sequence and sealed frames."""
        found: Any = self.store.xrange(keys.frames(sent.job, sent.attempt))
        return [(int(fields[b"s"]), fields[b"f"]) for _, fields in found]

    def arrived(self, sent: Sent) -> list[frames.Frame]:
        """The frames so far, opened in order."""
        cipher = sealing.FrameCipher(sent.reply_secret, sent.job, sent.attempt)
        result: list[frames.Frame] = []
        for expected, (sequence, sealed) in enumerate(self.entries(sent)):
            assert sequence == expected
            result += frames.unpack(cipher.open(sequence, sealed))
        return result

    def frames(self, sent: Sent, timeout: float = 10.0) -> list[frames.Frame]:
        """All frames of a job, once the last one is there."""
        wait_for(lambda: any(map(frames.is_terminal, self.arrived(sent))), timeout)
        return self.arrived(sent)

    def refusals(self) -> list[Refusal]:
        """Refusals reported, their signatures checked."""
        found = []
        entries: Any = self.store.xrange(keys.REPORTS)
        for _, fields in entries:
            token = fields.get(keys.REFUSAL.encode())
            if token is not None:
                worker = json.loads(unb64(token.decode().split(".")[1]))["worker"]
                if worker not in self.workers:
                    continue  # another test's
                found.append(checked(self.workers[worker], Purpose.REPORT, token.decode(), Refusal))
        return found


@dataclass
class Serving:
    """A control plane, a worker and the deployment that it serves."""

    control: ControlPlane
    worker: RunningWorker
    deployment: Assigned

    patience: float = 10.0  # seconds for an answer

    def ask(self, body: Mapping[str, Any] | bytes, **options: Any) -> tuple[Sent, list[frames.Frame]]:
        """Hand a job out and wait for its frames."""
        sent = self.control.submit(self.deployment, body, **options)
        return sent, self.control.frames(sent, self.patience)

    def request(self, event: str, tag: str) -> list[dict[str, Any]]:
        """The engine's journal of requests whose prompt has `tag=<tag>`."""
        return [line for line in self.worker.ended(event) if f"tag={tag} " in json.dumps(line["body"])]


def celery_envelope(message: JobMessage, queue: str) -> bytes:
    """A message of Celery's protocol 2 as kombu keeps it in Redis."""
    body = json.dumps([[msgspec.to_builtins(message)], {}, {"callbacks": None, "errbacks": None, "chain": None}])
    task = f"{message.job}:{message.attempt}"
    return json.dumps({
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": keys.TASK, "id": task, "root_id": task, "parent_id": None, "group": None,
                    "argsrepr": "", "kwargsrepr": "", "retries": 0, "eta": None, "expires": None},
        "properties": {"correlation_id": task, "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
                       "delivery_info": {"exchange": "", "routing_key": queue}, "delivery_tag": task},
    }).encode()  # fmt: skip


def text_of(given: list[frames.Frame]) -> str:
    """The words of a streamed answer."""
    words = []
    for frame in given:
        if isinstance(frame, (frames.Data, frames.Role)):
            choice = json.loads(frame.chunk)["choices"][0]
            words.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return "".join(words)
