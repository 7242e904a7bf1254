"""A control plane with one tenant and its sites, housekeeping in a thread, and a stand-in for the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import connections
from django.utils import timezone

from inference_worker.contract.frames import Body, Data, Done, Failed, Frame, Role
from inference_worker.contract.signing import Signer
from infra.local.valkey import Valkey
from kasbah.common import rls
from kasbah.common.changes import ChangeListener
from kasbah.common.database import Database
from kasbah.registry.models import Model, ModelVersion, Stage
from kasbah.residency.models import Site
from kasbah.residency.services import create_site
from kasbah.residency.services.site_keys import private_keys
from kasbah.serving import tasks
from kasbah.serving.models import Deployment, Job, Worker, WorkerState
from kasbah.serving.services import (
    Dispatcher,
    JobRequest,
    Outcome,
    Running,
    Timings,
    create_deployment,
    create_enrolment_token,
    grant,
    insert_jobs,
    settle_jobs,
)
from tests import factories
from tests.inference_worker.harness import model_folder
from tests.serving.stand_in import StandIn

T = TypeVar("T")
POLICY = "018f0000-0000-7000-8000-000000000001@1"


@dataclass
class World:
    """What a test needs of the control plane. `models` is the folder that workers load from."""

    home: factories.Household
    sites: list[Site]
    stores: list[Valkey]
    version: ModelVersion
    deployment: Deployment
    models: Path

    def token(self, site: int = 0) -> str:
        """A new enrolment token, whose worker needs no approval."""
        return create_enrolment_token(factories.SYSTEM, self.sites[site], preapproved=True).text

    def request(
        self, text: str = "hello", *, stream: bool = True, sites: Sequence[int] = (0,), **body: Any
    ) -> JobRequest:
        """A chat request as the gateway hands it over."""
        message = {"model": self.deployment.name, "messages": [{"role": "user", "content": text}], **body}
        return JobRequest(
            tenant_id=self.home.tenant.id,
            project_id=self.home.project.id,
            api_key_id=self.home.key.id,
            deployment_id=self.deployment.id,
            model_digest=self.version.digest,
            request_id=f"req_{uuid4()}",
            endpoint="/v1/chat/completions",
            body=json.dumps(message).encode(),
            stream=stream,
            data_class="internal",
            policy=POLICY,
            sites=tuple(self.sites[index].id for index in sites),
        )

    def jobs(self) -> list[Job]:
        """All rows, oldest first. From synchronous code; else through `apart`."""
        with rls.platform_scope():
            return list(Job.objects.order_by("id"))

    async def job(self, job_id: UUID) -> Job:
        """One row."""
        return next(job for job in await apart(self.jobs) if job.id == job_id)


async def apart(work: Callable[..., T], *arguments: Any) -> T:
    """Run what uses the ORM in a thread, and give its connection back."""

    def run() -> T:
        try:
            return work(*arguments)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


def make_world(stores: list[Valkey], models: Path, *, slugs: Sequence[str] = ("paris", "tokyo")) -> World:
    """Rows by services; `models` gets one small model."""
    home = factories.household()
    sites = [
        create_site(factories.SYSTEM, slug, slug.title(), "FR", store.url)
        for slug, store in zip(slugs, stores, strict=False)
    ]
    digest, entries = model_folder(models)
    family = Model.objects.create(name=factories.slug("model"), publisher="Tests", licence="Apache-2.0", family="x")
    version = ModelVersion.objects.create(
        model=family,
        digest=digest,
        manifest=msgspec.to_builtins(entries),
        size=sum(entry.size for entry in entries),
        stage=Stage.APPROVED,
    )
    deployment = create_deployment(factories.SYSTEM, factories.slug("chat"), version, sites, {"max_num_seqs": 64})
    grant(factories.SYSTEM, home.tenant, deployment)
    return World(home, sites, stores, version, deployment, models)


def stand_in(world: World, site: int = 0) -> StandIn:
    """A worker that was enrolled, and is alive."""
    private = os.urandom(32)
    public = Signer.from_raw(private).public.public_bytes_raw()
    place = world.sites[site]
    row = Worker.objects.create(
        site=place,
        name=factories.slug("worker"),
        public_key=public,
        state=WorkerState.ENROLLED,
        box_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        last_seen_at=timezone.now(),
    )
    made = StandIn(
        url=world.stores[site].url,
        worker=str(row.id),
        site=str(place.id),
        private=private,
        site_private=next(iter(private_keys(place).values())).private_bytes_raw(),
        deployment=str(world.deployment.id),
    )
    made.alive()
    return made


class Housekeeping:
    """Both ticks, again and again, in a thread of their own: what Celery's worker and beat do."""

    def __init__(self, every: float = 0.2) -> None:
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.errors: list[BaseException] = []
        self.paused = threading.Event()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            if not self.paused.is_set():
                try:
                    tick()
                except Exception as error:  # noqa: BLE001 - told at the end of the test
                    self.errors.append(error)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert not self.errors, self.errors


def tick() -> None:
    """One turn of housekeeping; connections are given back as Celery does after a task."""
    try:
        tasks.collect_reports()
        tasks.sweep_jobs()
    finally:
        connections.close_all()


@dataclass
class Answer:
    """What a client would have got."""

    running: Running
    frames: list[Frame] = field(default_factory=list)
    outcome: Outcome | None = None
    stale: bool = False

    @property
    def last(self) -> Done | Failed:
        """The end."""
        frame = self.frames[-1]
        assert isinstance(frame, (Done, Failed))
        return frame

    @property
    def text(self) -> str:
        """The words of a stream, or of a whole answer."""
        words = []
        for frame in self.frames:
            if isinstance(frame, (Data, Role)):
                choice = json.loads(frame.chunk)["choices"][0]
                words.append(choice.get("delta", {}).get("content") or "")
            elif isinstance(frame, Body):
                words.append(json.loads(frame.body)["choices"][0]["message"]["content"])
        return "".join(words)


class Web:
    """A web process without HTTP: commits, dispatches, collects, settles."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self.database = database
        self.dispatcher = dispatcher

    async def ready(self, world: World, sites: Sequence[int] = (0,), timeout: float = 30.0) -> None:
        """Until workers serve the deployment at all of these sites."""
        wanted = {world.sites[index].id for index in sites}
        await until(lambda: set(self.dispatcher.capacity.ready(world.deployment.id, list(wanted))) == wanted, timeout)

    async def send(self, request: JobRequest) -> Running:
        """Row, then offer."""
        job = self.dispatcher.prepare(request)
        async with self.database.transaction(None) as connection:
            await insert_jobs(connection, [job], self.dispatcher.timings.row_lease)
        return await self.dispatcher.submit(job)

    async def collect(self, running: Running, seen: Callable[[Answer], Awaitable[None]] | None = None) -> Answer:
        """Read to the end and settle; `seen` is called after each wake-up."""
        answer = Answer(running)
        try:
            async for frames in running.frames():
                answer.frames += frames
                if seen is not None:
                    await seen(answer)
            await self.settle(answer)
        finally:
            running.close()
        return answer

    async def settle(self, answer: Answer) -> None:
        """Commit the end."""
        answer.outcome = answer.running.outcome(answer.last)
        async with self.database.transaction(None) as connection:
            answer.stale = bool(await settle_jobs(connection, [answer.outcome]))

    async def ask(self, request: JobRequest) -> Answer:
        """All of it."""
        return await self.collect(await self.send(request))


@contextlib.asynccontextmanager
async def open_web(database: Database, dsn: str, limits: Timings | None = None) -> AsyncIterator[Web]:
    """A started dispatcher with its listener."""
    listener = ChangeListener(dsn)
    await listener.start()
    dispatcher = Dispatcher(database, listener, limits)
    await dispatcher.start()
    try:
        yield Web(database, dispatcher)
    finally:
        await dispatcher.close()
        await listener.close()


async def until(what: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(timeout):
        while not what():  # noqa: ASYNC110 - it is other processes that are waited for
            await asyncio.sleep(0.02)
