"""`python -m inference_worker`: an inference worker node at one site."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from inference_worker.contract import egress
from inference_worker.contract.printable import LineFormatter, escaped
from inference_worker.contract.settings import check_address, check_arguments, exit_on_wrong_setting

if __name__ == "__main__":  # before all else: what other modules try while they are loaded is refused too
    egress.install(egress.Guard("worker"))

import uvloop

from inference_worker import config
from inference_worker.config import Settings
from inference_worker.enrol import NotEnrolled
from inference_worker.identity import StateError

with exit_on_wrong_setting():  # some modules read a setting while they are loaded
    from inference_worker.worker import run

EPILOG = """\
first start:  python -m inference_worker --site paris --enrol kse_... --state-dir /var/lib/kasbah-worker \\
                  --models /srv/models --engine-python /opt/engine/bin/python   (KASBAH_BROKER_URL in the environment)
afterwards:   the same without --enrol: the identity is kept in the state folder.

A secret on the command line can be read by every user of the machine: prefer KASBAH_BROKER_URL and
KASBAH_ENROL_TOKEN, or files named broker_url and enrol_token in the folder KASBAH_SECRETS_DIR.

After its first start it waits until a person approves it on the control plane, and then goes on by itself.

The worker connects to the broker, to the store where that is another, and to nothing else; what tries to is refused
and reported. SIGTERM: no new jobs, those that run may finish, then the engines stop. Exit status: 0 stopped,
1 failed, 2 wrong usage or not enrolled, 3 revoked by the control plane.
"""


STORES = ("redis", "rediss", "valkey", "valkeys", "unix")
RABBITMQ = ("amqp", "amqps")
AMQP = tuple(f"{scheme}://" for scheme in RABBITMQ)
DAY = 86_400.0  # seconds


def bounded(most: float) -> Callable[[str], float]:
    """The type of an argument that is a number from 0 to `most`."""

    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not 0 <= found <= most:  # nan is not either
            raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a number from 0 to {most:g}")
        return found

    return read


def mebibytes(text: str) -> int:
    """The type of --engine-log."""
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a whole number from 1 to 999999")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m inference_worker",
        description="Runs inference engines (vLLM) at one site and answers the jobs of the site's broker.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--site", required=True, help="name of the site, as the control plane knows it")
    add("--broker", default="", metavar="URL", help="the site's broker, redis://... or amqp://... (KASBAH_BROKER_URL)")
    store = "its stream store, redis://..., where the broker is not that too (KASBAH_STORE_URL)"
    add("--store", default="", metavar="URL", help=store)
    add("--enrol", default="", metavar="TOKEN", help="one-time token for the first start (KASBAH_ENROL_TOKEN)")
    add("--state-dir", required=True, type=Path, metavar="DIR", help="private folder: own key, identity, engine logs")
    add("--models", required=True, type=Path, metavar="DIR", help="folder of model folders, each named by its digest")
    add("--engine-python", required=True, type=Path, metavar="PATH", help="interpreter that has vLLM installed")
    add("--rotate-key", action="store_true", help="replace the worker's own key by a new one, once, after this start")
    add("--name", default=socket.gethostname(), help="how people call this worker (default: the host's name)")
    add(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="short path for the engine's sockets (default: the temporary folder)",
    )
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"], help="default: info")
    carrier = "how Celery takes jobs: on the event loop, or in threads (default: by the broker)"
    add("--carrier", default="", choices=["batched", "stock"], help=carrier)
    limits = result.add_argument_group("limits, in seconds, GiB and MiB")
    for flag, default, text in (
        ("--drain", 30.0, "for running jobs after SIGTERM"),
        ("--engine-start", 1800.0, "until an engine must be ready"),
        ("--probe", 15.0, "between two questions to an engine"),
        ("--hung", 60.0, "for a token while idle, before the engine is restarted"),
    ):
        shown = f"{text} (default: {default:g})"
        limits.add_argument(flag, type=bounded(DAY), default=default, metavar="S", help=shown)
    memory = "of one engine with its processes (default: nine tenths of the machine or container)"
    limits.add_argument("--engine-memory", type=bounded(1_000_000), default=0.0, metavar="GIB", help=memory)
    engine_log = "of one engine's log (default: 16)"
    limits.add_argument("--engine-log", type=mebibytes, default=16, metavar="MIB", help=engine_log)
    return result


def settings(arguments: argparse.Namespace) -> Settings:
    """Check what was given. Raises ValueError with what to do."""
    broker, store = _addresses(arguments)
    if not arguments.models.is_dir():
        raise ValueError(f"--models: {arguments.models} is not a folder")
    if not os.access(arguments.engine_python, os.X_OK):
        raise ValueError(f"--engine-python: {arguments.engine_python} is not a program")
    return Settings(
        site=arguments.site,
        broker=broker,
        store=store,
        token=arguments.enrol or config.secret("ENROL_TOKEN"),
        rotate_key=arguments.rotate_key,
        state_dir=arguments.state_dir.absolute(),
        models=arguments.models.absolute(),
        engine_python=arguments.engine_python.absolute(),
        name=arguments.name,
        run_dir=arguments.run_dir.absolute() if arguments.run_dir else None,
        log_level=arguments.log_level,
        carrier=arguments.carrier,
        drain_seconds=arguments.drain,
        engine_memory_bytes=int(arguments.engine_memory * 2**30),
        engine_log_bytes=arguments.engine_log * 2**20,
        engine_start_seconds=arguments.engine_start,
        probe_seconds=arguments.probe,
        hung_seconds=arguments.hung,
    )


def _addresses(arguments: argparse.Namespace) -> tuple[str, str]:
    """Broker and store. Raises ValueError, which repeats neither: they hold passwords."""
    broker = arguments.broker or config.secret("BROKER_URL")
    if not broker:
        raise ValueError("no broker: give --broker redis://... or amqp://..., or set KASBAH_BROKER_URL")
    check_address(broker, (*STORES, *RABBITMQ), "--broker (KASBAH_BROKER_URL)")
    store = arguments.store or config.secret("STORE_URL")
    if not store and broker.startswith(AMQP):
        raise ValueError("RabbitMQ keeps no streams: give --store redis://... too, or set KASBAH_STORE_URL")
    if store:
        check_address(store, STORES, "--store (KASBAH_STORE_URL)")
    if arguments.carrier == "batched" and broker.startswith(AMQP):
        raise ValueError("--carrier batched is for Redis and Valkey; leave it out with RabbitMQ")
    return broker, store or broker


def _also_allowed() -> list[str]:
    """The entries of KASBAH_EGRESS_ALLOW. Raises ValueError."""
    found = [each.strip() for each in config.secret("EGRESS_ALLOW").split(",") if each.strip()]
    try:
        for each in found:
            egress.endpoint(each)
    except ValueError as error:
        raise ValueError(f"KASBAH_EGRESS_ALLOW: {error}") from None
    return found


def main() -> int:
    """Entry."""
    with exit_on_wrong_setting():
        check_arguments(sys.argv)
    arguments = parser().parse_args()
    os.umask(0o077)
    level = arguments.log_level.upper()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for name in ("celery", "kombu", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        given = settings(arguments)
        guard = egress.installed() or egress.Guard("worker")
        guard.allow("settings", [given.broker, given.store, *_also_allowed()])
        egress.install(guard)
        return uvloop.run(run(given))
    except (ValueError, NotEnrolled, StateError) as error:
        print(escaped(f"inference_worker: {error}"), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
