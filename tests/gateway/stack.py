"""The whole platform for tests: web process, housekeeping and workers as processes of their own, real servers.

Only the engine is a fake (tests/fakes/engine.py). Rows are made by the services, in the test's process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from inference_worker.contract import manifest
from infra.local import valkey as local_valkey
from infra.local.valkey import Valkey
from kasbah.common import rls
from kasbah.identity.models import Tenant
from kasbah.registry.models import Model, ModelVersion, Stage
from kasbah.residency.models import Site
from kasbah.residency.services import create_site
from kasbah.serving.models import Deployment, DeploymentGrant
from kasbah.serving.services.workers import create_enrolment_token
from tests import factories
from tests.fakes import engine

ROOT = Path(__file__).parents[2]
CONTEXT = 2048  # tokens of the model's context

HOUSEKEEPING = """
import time, django
from kasbah.config.egress import guard
guard("housekeeping")
django.setup()
from kasbah.serving.tasks import collect_reports, delete_erased_frames, sweep_jobs
while True:
    collect_reports()
    sweep_jobs()
    delete_erased_frames()
    time.sleep(0.2)
"""


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Any, what: str, patience: float = 30.0) -> None:
    """Until `condition()` is true; fails with `what` otherwise."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s for {what}")
        time.sleep(0.05)


@dataclass
class Place:
    """A site with its own store and one worker."""

    site: Site
    store: Valkey


@dataclass
class Web:
    """A running web process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self) -> dict[str, Any]:
        """What /readyz says."""
        answer: dict[str, Any] = httpx.get(f"{self.url}/readyz", timeout=5).json()
        return answer


@dataclass
class Stack:
    """Sites, one deployment named `mini` at all of them, and the processes."""

    home: Path
    deployment: Deployment
    places: dict[str, Place]
    engine: Path
    journal: Path
    web: Web = field(init=False)
    launchers: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by site: what starts its workers
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def spawn(
        self, name: str, *arguments: str, launcher: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """A child that ends with the stack; its output lies in <home>/<name>.log."""
        with (self.home / f"{name}.log").open("ab") as output:
            child = subprocess.Popen(
                [*launcher, sys.executable, *arguments],
                cwd=ROOT,
                env={
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": "kasbah.config.settings",
                    "PYTHONPATH": f"{ROOT}/platform:{ROOT}",
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.children.append(child)
        return child

    def start_web(self, name: str = "web", program: Sequence[str] = ("manage.py",), **environment: str) -> Web:
        """A web process, waited for."""
        port = free_port()
        process = self.spawn(
            name, *program, "serve", "--host", "127.0.0.1", "--port", str(port), **environment
        )  # fmt: skip
        web = Web(f"http://127.0.0.1:{port}", process, self.home / f"{name}.log")

        def answers() -> bool:
            assert process.poll() is None, web.log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{web.url}/readyz", timeout=2).status_code == 200
            return False

        wait_until(answers, "the web process")
        return web

    def start_worker(self, slug: str, name: str = "worker") -> subprocess.Popen[bytes]:
        """A worker of a site, enrolled with a new token unless it has its state already."""
        place = self.places[slug]
        full = f"{name}-{slug}"
        environment = {"KASBAH_BROKER_URL": place.store.url}
        if not (self.home / full).exists():
            environment["KASBAH_ENROL_TOKEN"] = create_enrolment_token(
                factories.SYSTEM, place.site, preapproved=True
            ).text
        self.workers[full] = self.spawn(
            full, "-m", "inference_worker", "--site", slug, "--state-dir", str(self.home / full),
            "--models", str(self.home / "models"), "--engine-python", str(self.engine), "--name", full,
            "--run-dir", str(self.home), launcher=self.launchers.get(slug, ()), **environment,
        )  # fmt: skip
        return self.workers[full]

    def stop_worker(self, full: str) -> None:
        """End a worker in an orderly way."""
        worker = self.workers.pop(full)
        worker.terminate()
        worker.wait(20)

    def household(self, document: dict[str, Any] | None = None, **options: Any) -> factories.Household:
        """A tenant that may use `mini`, under this policy or one that allows everything everywhere."""
        made = factories.household(**options)
        self.grant(made.tenant)
        factories.active_policy(made.tenant, document or everything())
        return made

    def grant(self, tenant: Tenant) -> None:
        """Let a tenant use `mini`."""
        with rls.tenant_scope(tenant.id):
            DeploymentGrant.objects.create(tenant=tenant, deployment=self.deployment)

    def await_capacity(self, key: str, web: Web | None = None) -> None:
        """Until `mini` answers."""
        url = (web or self.web).url

        def answers() -> bool:
            body = {"model": "mini", "messages": [{"role": "user", "content": "[[tokens=1]]"}]}
            headers = {"Authorization": f"Bearer {key}"}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=20)
            return answer.status_code == 200

        wait_until(answers, "a worker that serves", 60)

    def close(self) -> None:
        """End every child, then the stores."""
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in reversed(self.children):
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def everything() -> dict[str, Any]:
    """A policy that allows every class everywhere, and lets content be kept."""
    classes = ["public", "internal", "confidential", "secret"]
    rule = {"id": "all", "effect": "allow", "data_classes": classes, "models": ["*"], "sites": ["*"], "tags": ["*"]}
    return {
        "version": 1,
        "rules": [rule],
        "content": dict.fromkeys(classes, "sealed"),
        "retention": {name: {"ceiling_days": 30} for name in classes},
    }


def model_version(models: Path) -> ModelVersion:
    """An approved version whose folder lies where workers look for it."""
    folder = models / "new"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    entries = manifest.manifest_of(folder)
    digest = manifest.digest_of(entries)
    folder.rename(models / digest)
    with rls.platform_scope():
        model = Model.objects.create(name="mini", publisher="tests", licence="Apache-2.0", family="fake")
        return ModelVersion.objects.create(
            model=model,
            digest=digest,
            manifest=[{"path": item.path, "size": item.size, "sha256": item.sha256} for item in entries],
            size=sum(item.size for item in entries),
            stage=Stage.APPROVED,
        )


def beside(home: Path, slug: str) -> AbstractContextManager[Valkey]:
    """A site's store on this machine's loopback address."""
    return local_valkey.valkey(home, f"site-{slug}", aof=False)


@contextlib.contextmanager
def running(
    home: Path,
    sites: dict[str, str],
    *,
    open_store: Callable[[Path, str], AbstractContextManager[Valkey]] = beside,
    launchers: Mapping[str, Sequence[str]] | None = None,
    **environment: str,
) -> Iterator[Stack]:
    """Everything up: `sites` maps slugs to jurisdictions; `environment` is the web process's."""
    with contextlib.ExitStack() as stores:
        places: dict[str, Place] = {}
        for slug, jurisdiction in sites.items():
            store = stores.enter_context(open_store(home, slug))
            site = create_site(factories.SYSTEM, slug, slug.title(), jurisdiction, store.url)
            places[slug] = Place(site, store)
        version = model_version(home / "models")
        with rls.platform_scope():
            deployment = Deployment.objects.create(
                name="mini",
                model_version=version,
                engine_settings={"max_model_len": CONTEXT, "max_num_seqs": 128},
            )
            deployment.sites.set([place.site for place in places.values()])
        journal = home / "journal"
        program = engine.write_program(home / "engine", {"FAKE_JOURNAL": str(journal)})
        stack = Stack(home, deployment, places, program, journal, launchers=launchers or {})
        try:
            stack.spawn("housekeeping", "-c", HOUSEKEEPING)
            for slug in sites:
                stack.start_worker(slug)
            stack.web = stack.start_web(**environment)
            yield stack
        finally:
            stack.close()
