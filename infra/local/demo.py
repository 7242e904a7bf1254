"""`make demo`: everything on this machine, from nothing to an answered question, then up until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local import interrupts, model, postgres, problems, processes, question, secrets, services, valkey
from infra.local.home import REPOSITORY, Home, home
from infra.local.postgres import Postgres
from infra.local.problems import Problem
from infra.local.services import Program, Supervisor
from infra.local.terminal import Step, say
from infra.local.valkey import Valkey

LEFTOVER_PATIENCE = 40.0  # seconds; a worker whose broker went with the supervisor waits 30 s for its jobs
TRIES = 3  # failures of a process before the first answer that end the start
# MiB, measured with the CPU engine and the demo model: engine 3400, everything else 700; model 1430 on disk.
NEEDED_MEMORY, NEEDED_DISK, MODEL_DISK = 4300, 700, 1500
SERVER_ERRORS = (postgres.PostgresError, valkey.ValkeyError, model.ModelError)


@dataclass
class Demo:
    """What the steps share."""

    place: Home
    host: str
    port: int
    supervisor: Supervisor

    @property
    def address(self) -> str:
        """Base URL of the control plane."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The environment of the control plane's processes: ours without KASBAH_*, and where the secrets lie."""
        return plain_environment() | {
            "KASBAH_HOME": str(self.place.path),
            "KASBAH_SECRETS_DIR": str(self.place.path / "secrets"),
            "KASBAH_MODELS_DIR": str(self.place.models),
            "KASBAH_AUDIT_DIR": str(self.place.audit),
            "PYTHONUNBUFFERED": "1",
        }

    def manage(self, *arguments: str, extra: Mapping[str, str]) -> str:
        """Run `manage.py ARGUMENTS` and return its output; `extra` are settings of it alone, which it reads from files.

        Raises Problem with its last words.
        """
        log = self.place.logs / "manage.log"
        command = [sys.executable, str(REPOSITORY / "manage.py"), *arguments]
        folder = secrets.setup_folder(self.place.path, **extra)
        environment = self.environment() | {"KASBAH_SECRETS_DIR": str(folder)}
        with processes.open_log(log) as errors:
            result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=errors, check=False)
        if result.returncode != 0:
            raise Problem(
                f"`manage.py {arguments[0]}` {services.ended_how(result.returncode)}:\n{services.tail(log, 5)}\n"
                f"The rest is in {log}. With the cause removed, run the same command again."
            )
        return result.stdout.decode()


def plain_environment() -> dict[str, str]:
    """This process's environment without Kasbah's own settings, which each child gets for itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KASBAH_")}


def main(*, bind: str, once: bool) -> int:
    """Start, ask, stay. The exit status: 0 after Ctrl-C or `once`."""
    os.umask(0o077)
    host, port = problems.parse_bind(bind)
    place = home()
    place.create()
    with place.lock("start a second time"), interrupts.heard():
        end_leftovers(place)
        check(place, host, port)
        demo = Demo(place, host, port, Supervisor(place.run, lambda text: say(f"  ! {text}")))
        say(f"Kasbah on this machine; all data is in {place.path}\n")
        try:
            show(demo, *start(demo))
            if not once:
                stay(demo)
        except SERVER_ERRORS as error:
            raise Problem(f"{error}\nLogs are in {place.logs}.") from error
        except KeyboardInterrupt:
            say("\n")
        finally:
            stop(demo)
    return 0


def end_leftovers(place: Home) -> None:
    """Processes of a run whose supervisor was killed end by themselves; wait for them, then insist."""
    for note in place.run.glob("*.pid"):
        pid = processes.read_pid(note)
        if pid is not None and not processes.await_end(pid, patience=0.5):
            with Step(f"Waiting for {note.stem} (pid {pid}) of a run that was killed"):
                if not processes.await_end(pid, LEFTOVER_PATIENCE):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        note.unlink(missing_ok=True)


def check(place: Home, host: str, port: int) -> None:
    """What would stop the start later, found now. Raises Problem."""
    problems.check_platform()
    built = any(path.is_dir() for path in place.models.glob("[0-9a-f]*"))
    problems.check_disk(place.path, NEEDED_DISK + (0 if built else MODEL_DISK), "the demo")
    problems.check_memory(NEEDED_MEMORY)
    problems.check_port(host, port)


def start(demo: Demo) -> tuple[dict[str, Any], question.Answer]:
    """All steps up to the first answer."""
    place = demo.place
    database, site = start_servers(demo)
    with Step("Demo model: SmolLM2-135M as a mixture of 4 experts") as step:
        engine_python = REPOSITORY / ".venv-engine" / "bin" / "python"
        built = model.build(engine_python, place.models, lambda line: _build_progress(step, line))
    with Step("Database schema"):
        demo.manage("migrate", "--no-input", extra={"owner_database_url": database.owner_url})
    with Step("Tenant, project, administrator, site, policy, deployment, key"):
        facts = bootstrap(demo, site.url, built)
    with Step("Control plane and housekeeping"):
        start_control_plane(demo)
    worker_started = time.monotonic()
    start_worker(demo, facts, site.url, engine_python)
    with Step("Inference worker: loading the model into vLLM") as step:
        answer = first_answer(demo, facts, step, worker_started)
    return facts, answer


def start_servers(demo: Demo) -> tuple[Postgres, Valkey]:
    """PostgreSQL, both Valkeys and the secrets that name them; answers the database and the site's Valkey."""
    place, supervisor = demo.place, demo.supervisor
    with Step("PostgreSQL"):
        database = postgres.prepare(place.path)
        supervisor.start("postgres", database)
        postgres.create_roles_and_database(database)
    with Step("Valkey: one for the control plane, one for the site's jobs"):
        control, site = (valkey.prepare(place.path, name) for name in ("valkey-control", "valkey-site"))
        supervisor.start("valkey-control", control)
        supervisor.start("valkey-site", site)
    secrets.write_all(
        place.path,
        database_url=database.app_url,
        owner_database_url=database.owner_url,
        redis_url=control.url,
        bind=f"{demo.host}:{demo.port}",
    )
    return database, site


def _build_progress(step: Step, line: str) -> None:
    step.note(line)
    layer, slash, layers = line.removeprefix("layer ").partition("/")
    if slash and layer.isdigit():
        step.fraction(0.9 * int(layer) / int(layers))


def bootstrap(demo: Demo, broker_url: str, built: model.BuiltModel) -> dict[str, Any]:
    """`manage.py bootstrap_demo`; key and password are kept in `<home>/admin`, mode 0600."""
    key_file = secrets.private_folder(demo.place.admin) / "demo_api_key"
    extra = {"demo_broker_url": broker_url, "demo_model": built.digest}
    output = demo.manage("bootstrap_demo", "--api-key-file", str(key_file), "--json", extra=extra)
    facts: dict[str, Any] = json.loads(output)
    if password := facts.get("admin_password"):  # told once
        secrets.write(demo.place.admin / "demo_admin_password", password)
    return facts


def start_control_plane(demo: Demo) -> None:
    """Web process and housekeeping (Celery worker with beat); returns when the web process answers."""
    place, environment = demo.place, demo.environment()
    serve = [sys.executable, str(REPOSITORY / "manage.py"), "serve", "--host", demo.host, "--port", str(demo.port)]
    web = Program(serve, environment, place.logs / "web.log", REPOSITORY)
    demo.supervisor.start("web", web)
    celery = [sys.executable, "-m", "celery", "-A", "kasbah.config.celery", "worker", "-B"]
    celery += ["-s", str(place.run / "beat"), "--pool", "threads", "-Q", "housekeeping"]
    celery += ["--hostname", "housekeeping@kasbah", "--loglevel", "WARNING"]
    housekeeping = environment | {"KASBAH_DATABASE_POOL": "16"}  # its threads, and those that witnesses and SIEMs have
    demo.supervisor.start("housekeeping", Program(celery, housekeeping, place.logs / "housekeeping.log", REPOSITORY))
    deadline = time.monotonic() + 60
    while not question.reachable(demo.host, demo.port):
        if web.process is not None and web.process.poll() is not None:
            raise Problem(f"The control plane did not start:\n{services.tail(web.log)}\nIts log is {web.log}.")
        if time.monotonic() > deadline:
            raise Problem(f"The control plane does not answer on {demo.address} after 60 s; its log is {web.log}.")
        time.sleep(0.1)


def start_worker(demo: Demo, facts: Mapping[str, Any], broker_url: str, engine_python: Path) -> None:
    """The inference worker. It gets its broker and its enrolment token, and nothing of the control plane's."""
    place = demo.place
    argv = [sys.executable, "-m", "inference_worker", "--site", str(facts["site"])]
    argv += ["--state-dir", str(place.worker), "--models", str(place.models), "--engine-python", str(engine_python)]
    # Files and not the environment, which every process of the account can read, and children inherit.
    folder, token = secrets.private_folder(place.worker_secrets), facts.get("enrol_token")
    secrets.write(folder / "broker_url", broker_url)
    if token:
        secrets.write(folder / "enrol_token", str(token))
    else:
        (folder / "enrol_token").unlink(missing_ok=True)
    environment = plain_environment() | {"KASBAH_SECRETS_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
    log = place.logs / "worker.log"
    demo.supervisor.start("worker", Program(argv, environment, log, REPOSITORY, patience=30.0))


def progress(taken: float, expected: float) -> float:
    """How far a step seems that took `expected` seconds last time: it goes on for as long as it takes, below 1."""
    ratio = taken / max(expected, 1.0)
    return 0.9 * ratio if ratio < 1 else 1 - 0.1 / ratio


def first_answer(demo: Demo, facts: Mapping[str, Any], step: Step, started: float) -> question.Answer:
    """Ask until the model answers, with a bar after the time it took last."""
    note = demo.place.run / "engine-seconds"
    try:
        expected = float(note.read_text(encoding="ascii"))
    except (OSError, ValueError):
        expected = 60.0

    def waiting(reason: str) -> None:
        demo.supervisor.look()
        if failing := [name for name, count in demo.supervisor.failures.items() if count >= TRIES]:
            raise question.Unanswered(f"{failing[0]} failed {TRIES} times")
        taken = time.monotonic() - started
        step.fraction(progress(taken, expected))
        late = f"; longer than the {expected:.0f} s of last time" if taken > expected else ""
        step.note(f"{reason}{late}")

    log = demo.place.logs / "worker.log"
    try:
        answer = question.ask(demo.address, str(facts["api_key"]), str(facts["model"]), waiting)
    except question.Unanswered as error:
        raise Problem(
            f"No answer came: {error}.\nThe worker's last words:\n{services.tail(log)}\n"
            f"Its log is {log}, the engine's are in {demo.place.worker / 'logs'}, all others in {demo.place.logs}."
        ) from error
    note.write_text(f"{time.monotonic() - started:.0f}\n", encoding="ascii")
    step.fraction(1.0)
    return answer


def show(demo: Demo, facts: Mapping[str, Any], answer: question.Answer) -> None:
    """The answer, its origin and receipt, and how to go on."""
    (demo.place.run / "demo.json").write_text(json.dumps({"address": demo.address}), encoding="ascii")
    say()
    for line in question.report(answer):
        say(line)
    question_of_yours = {"model": facts["model"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 60}
    body = json.dumps(question_of_yours)  # short: two cores make some 20 tokens a second
    say("\nAsk it yourself:\n")
    say(f"  curl {demo.address}/v1/chat/completions \\")
    say(f"    -H 'Authorization: Bearer {facts['api_key']}' -H 'Content-Type: application/json' \\")
    say(f"    -d '{body}'\n")
    say(f"  OpenAI SDK:  base_url={demo.address}/v1  api_key={facts['api_key']}")
    say(f"  Management:  {demo.address}/api/  as {facts['admin_email']},")
    say(f"               password in {demo.place.admin / 'demo_admin_password'}")
    places = {name: value for name, value in demo.environment().items() if name.startswith("KASBAH_")}
    say(f"  Commands:    export {shlex.join(f'{name}={value}' for name, value in places.items())}")
    say(f"               {shlex.join([sys.executable, str(REPOSITORY / 'manage.py')])} help")


def stay(demo: Demo) -> None:
    """Keep everything alive until Ctrl-C."""
    say("\nRunning. Ctrl-C ends everything; the data stays, and the next start takes it up.")
    while True:
        demo.supervisor.look()
        time.sleep(1.0)


def stop(demo: Demo) -> None:
    """End everything in order; a second Ctrl-C does not leave halves behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    (demo.place.run / "demo.json").unlink(missing_ok=True)
    with Step("Ending everything") as step:
        killed = demo.supervisor.stop(step.note)
        step.note("")
    if killed:
        say(f"  ! did not end by themselves and were killed: {', '.join(killed)}")
