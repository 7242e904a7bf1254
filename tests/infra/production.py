"""The services of docker-compose.yml as processes of this machine: the same commands, secrets, roles, users and proxy.

What a container engine would do is done by hand: each service gets a folder with exactly the secrets that compose gives
it, the environment that compose gives it, and nothing else. Host names and ports become those of this machine, and the
engine is a fake.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from infra.local import postgres
from tests.fakes.engine import write_program
from tests.infra import stack, test_postgres, test_proxy, test_valkey

ROOT = stack.ROOT
BIN = Path(sys.executable).parent


@dataclass
class Production:
    """The running services; `folder` has a log of each."""

    folder: Path
    secrets: Path
    port: int
    https: int = 0
    compose: stack.Compose = field(default_factory=stack.load)
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def mounted(self, service: str) -> Path:
        """The service's /run/secrets."""
        folder = self.folder / f"secrets-{service}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for target, secret in stack.secrets_of(self.compose["services"][service]).items():
            shutil.copy(self.secrets / secret, folder / target)
        return folder

    def environment(self, service: str) -> dict[str, str]:
        """What compose and the image give it, with the addresses of this machine."""
        given = {
            str(name): str(value) for name, value in self.compose["services"][service].get("environment", {}).items()
        }
        local = {
            "KASBAH_BIND": f"127.0.0.1:{self.port}",
            "KASBAH_TRUSTED_PROXIES": "127.0.0.1",
            "KASBAH_MODELS_DIR": str(self.folder / "models"),
            "KASBAH_AUDIT_DIR": str(self.folder / "audit"),
        }
        given |= {name: local[name] for name in given if name in local}
        return {
            "PATH": f"{BIN}:{os.defpath}",
            "PYTHONPATH": f"{ROOT}/platform:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "kasbah.config.settings",
            "KASBAH_SECRETS_DIR": str(self.mounted(service)),
            **given,
        }

    def command(self, service: str) -> list[str]:
        """Compose's command, with the folders of this machine."""
        spec = self.compose["services"][service]
        local = {
            "python": sys.executable,
            "celery": str(BIN / "celery"),
            "manage.py": str(ROOT / "manage.py"),
            "/tmp/beat": str(self.folder / "beat"),  # noqa: S108 - the container's
            "/state": str(self.folder / "state"),
            "/models": str(self.folder / "models"),
            "/opt/engine/bin/python": str(self.folder / "engine"),
        }
        return [local.get(word, word) for word in [*spec.get("entrypoint", []), *spec["command"]]]

    def start(self, service: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start it and let it run."""
        with (self.folder / f"{service}.log").open("ab") as output:
            self.children[service] = subprocess.Popen(
                self.command(service),
                cwd=self.folder,
                env=self.environment(service) | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self.children[service]

    def run(self, service: str, *arguments: str, **files: str) -> str:
        """Run it to its end, `arguments` in place of its command as `docker compose run` does; its standard output.

        `files` replaces words: paths inside the container by those of this machine.
        """
        spec = self.compose["services"][service]
        command = self.command(service)
        if arguments:
            words = [files.get(word, word) for word in arguments]
            command = command[: len(spec.get("entrypoint", []))] + words
        environment = self.environment(service)
        words = [word.replace("/run/secrets", environment["KASBAH_SECRETS_DIR"]) for word in command]
        done = subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def healthy(self, service: str) -> bool:
        """What the container's own check says."""
        test = self.compose["services"][service]["healthcheck"]["test"]
        assert test[0] == "CMD"
        local = {
            "python": sys.executable,
            "celery": str(BIN / "celery"),
            "health.py": str(ROOT / "infra/containers/health.py"),
            "/state": str(self.folder / "state"),
        }
        words = [local.get(word, word).replace(":8080/", f":{self.port}/") for word in test[1:]]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment(service), capture_output=True, check=False, timeout=30
        )
        return done.returncode == 0

    def log(self, service: str) -> str:
        """What it wrote."""
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End them, last started first."""
        for child in reversed(list(self.children.values())):
            child.terminate()
        for child in self.children.values():
            child.wait(60)


@contextmanager
def running(folder: Path, made: Path) -> Iterator[Production]:
    """Databases, brokers and proxy up, schema migrated, the control plane's services started."""
    secrets = folder / "secrets"
    shutil.copytree(made, secrets)
    for path in secrets.iterdir():
        path.chmod(0o600)
    with ExitStack() as ends:
        production = Production(folder, secrets, test_proxy.free_port())
        database = ends.enter_context(serving_database(folder / "pg", secrets))
        for name in ("database_url", "owner_database_url"):
            front = (secrets / name).read_text().rpartition("@")[0]
            socket = quote(str(database.socket_folder), safe="")
            (secrets / name).write_text(f"{front}@/kasbah?host={socket}")
        for conf, files in {
            "control.conf": {"kasbah": "redis_url"},
            "site.conf": {"control": "site_main_control_broker_url", "worker": "site_main_worker_broker_url"},
        }.items():
            users = ends.enter_context(contextmanager(test_valkey.serve)(folder / conf, secrets, conf, files))
            for user, name in files.items():
                (secrets / name).write_text(users.urls[user])
        (folder / "models").mkdir()
        write_program(folder / "engine")
        ends.callback(production.stop)
        production.run("migrate")
        for service in ("control-plane", "housekeeping", "beat"):
            production.start(service)
        upstream = test_proxy.Address(production.port)
        production.https, _, _ = ends.enter_context(
            test_proxy.caddy(test_proxy.CADDYFILE, upstream, secrets, folder, BODY_LIMIT="5MiB")
        )
        yield production


@contextmanager
def serving_database(folder: Path, secrets: Path) -> Iterator[postgres.Postgres]:
    """PostgreSQL with the production settings and roles."""
    settings = {"config_file": str(ROOT / "infra/postgres/postgresql.conf"), "shared_buffers": "64MB", "fsync": "off"}
    server = postgres.prepare(folder, settings=settings)
    server.start()
    try:
        done = test_postgres.run_init(server, secrets)
        assert done.returncode == 0, done.stderr
        yield server
    finally:
        server.stop()
