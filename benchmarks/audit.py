"""`python -m benchmarks.audit`: what recording, sequencing and verifying cost, beside the design's goals.

A PostgreSQL of its own, which waits for the disk as in production; everything through the platform's own code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from benchmarks.table import show
from infra.local import secrets
from infra.local.postgres import Postgres, postgres

if TYPE_CHECKING:
    from kasbah.audit.services import Event

GOALS = {"django": 3_000.0, "group": 25_000.0, "behind": 1.0, "verify": 50_000.0}  # 1,000,000 events in 20 s


# Runs a program and says how much memory it took at most, in MiB.
MEASURED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (%(default)s)")
    parser.add_argument("--events", type=int, default=200_000, help="to export and verify (%(default)s)")
    parser.add_argument("--threads", type=int, default=8, help="that record at once (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ksb-bench-") as folder, _installation(Path(folder)):
        import django

        django.setup()
        rows = [
            _one_a_commit(options.seconds, options.threads),
            _in_groups(options.seconds),
            _sequencing(options.events),
            _behind(options.seconds),
            *_verifying(Path(folder)),
        ]
    show("Audit", ["measure", "figure", "goal", "ratio"], rows)


@contextlib.contextmanager
def _installation(home: Path) -> Iterator[Postgres]:
    """A migrated database, and settings that name it."""
    with postgres(home) as server:
        place = secrets.write_all(
            home,
            database_url=server.app_url,
            owner_database_url=server.owner_url,
            redis_url="redis://127.0.0.1:1/0",
            bind="127.0.0.1:1",
        )
        os.environ.update(
            DJANGO_SETTINGS_MODULE="kasbah.config.settings",
            KASBAH_SECRETS_DIR=str(place),
            KASBAH_AUDIT_DIR=str(home / "audit"),
        )
        migrate = [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity", "0"]
        subprocess.run(migrate, check=True, env=os.environ | {"KASBAH_OWNER_DATABASE_URL": server.owner_url})
        yield server


def _event(tenant: UUID) -> Event:
    from kasbah.audit.services import ActorRef, Event, EventType

    details: dict[str, str | int | bool | list[str]] = {
        "data_class": "internal",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "sites": [str(tenant)],
    }
    actor = ActorRef("api_key", str(tenant), "api_key")
    return Event(type=EventType.INFERENCE_INTENT, tenant_id=tenant, actor=actor, details=details)


def _one_a_commit(seconds: float, threads: int) -> list[str]:
    """The Django path: each event in a transaction of its own, while the sequencer follows."""
    from django.db import connection

    from kasbah.audit.log.sequencer import sequence
    from kasbah.audit.services import record
    from kasbah.common import rls

    tenant, counts, end = uuid4(), [0] * threads, time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < end:
            with rls.tenant_scope(tenant):
                record(_event(tenant))
            counts[number] += 1
        connection.close()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        sequence()
        time.sleep(0.2)
    while sequence().events:
        pass
    rate = sum(counts) / (time.monotonic() - started)
    return _row("durable and sequenced, one event a commit (Django)", rate, "events/s", GOALS["django"])


def _in_groups(seconds: float) -> list[str]:
    """The gateway's way: one insert for all that wait."""
    from kasbah.audit.services import insert
    from kasbah.common.database import Database

    async def measure() -> float:
        database = Database(2)
        await database.open()
        tenant, count, end = uuid4(), 0, time.monotonic() + seconds
        started = time.monotonic()
        try:
            while time.monotonic() < end:
                async with database.transaction(None) as connection:
                    await insert(connection, [_event(tenant) for _ in range(128)])
                count += 128
            return count / (time.monotonic() - started)
        finally:
            await database.close()

    return _row("group commit of 128", asyncio.run(measure()), "events/s", GOALS["group"])


def _sequencing(events: int) -> list[str]:
    """How fast a backlog is given its places."""
    from django.db import connection

    from kasbah.audit.log.sequencer import sequence
    from kasbah.common import rls

    while sequence().events:
        pass
    tenant = UUID(int=0x0199C1F27A3B7C4D8E5F0123456789AB)
    body = json.loads(_event(tenant).encoded)
    with rls.platform_scope(), connection.cursor() as cursor:
        for start in range(0, events, 10_000):
            rows = [(uuid4(), body) for _ in range(min(10_000, events - start))]
            data = [json.dumps(body | {"id": str(one)}, sort_keys=True, separators=(",", ":")) for one, _ in rows]
            cursor.execute(
                "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) "
                "SELECT i, %s, 'key.created', '', convert_to(e, 'UTF8') FROM unnest(%s::uuid[], %s::text[]) AS u(i, e)",
                [tenant, [one for one, _ in rows], [text.replace("inference.intent", "key.created") for text in data]],
            )
    started = time.monotonic()
    done = 0
    while step := sequence().events:
        done += step
    return _row("sequencing a backlog", done / (time.monotonic() - started), "events/s", 0)


def _behind(seconds: float) -> list[str]:
    """From an event's commit to the checkpoint that signs for it, with a sequencer twice a second."""
    from kasbah.audit.log.models import SignedCheckpoint
    from kasbah.audit.log.sequencer import sequence
    from kasbah.audit.services import record
    from kasbah.common import rls

    tenant, end = uuid4(), time.monotonic() + seconds
    committed: list[float] = []
    waits: list[float] = []
    next_run = time.monotonic() + 0.5
    while time.monotonic() < end or committed:
        if time.monotonic() < end:
            with rls.tenant_scope(tenant):
                record(_event(tenant))
            committed.append(time.monotonic())
        time.sleep(0.005)
        if time.monotonic() >= next_run:
            sequence()
            now, next_run = time.monotonic(), next_run + 0.5
            with rls.tenant_scope(tenant):
                newest = SignedCheckpoint.objects.filter(tenant_id=tenant).order_by("-size").first()
            signed = (newest.size if newest else 0) - len(waits)
            waits += [now - at for at in committed[:signed]]
            del committed[:signed]
    waits.sort()
    p99 = waits[int(len(waits) * 0.99)]
    goal = GOALS["behind"]
    return ["commit to signed checkpoint, p99", f"{p99:.2f} s", f"{goal:.0f} s", f"{p99 / goal:.2f}"]


def _verifying(home: Path) -> list[list[str]]:
    """An export, checked by the program that it brings, in a process of its own."""
    from kasbah.audit.export.verifier.joined import program
    from kasbah.audit.services import ActorRef, exports
    from kasbah.common import rls

    tenant = UUID(int=0x0199C1F27A3B7C4D8E5F0123456789AB)
    path = home / "export.zip"
    started = time.monotonic()
    with rls.tenant_scope(tenant), path.open("wb") as file:
        log, wanted = exports.choose(tenant, None, None)
        done = exports.export(file, log, wanted, ActorRef("system", "benchmark", "process"))
    written = done.end / (time.monotonic() - started)
    verifier = str(home / "verify.py")
    Path(verifier).write_text(program(), encoding="utf-8")
    key = exports.log_key(done.origin).vkey()
    command = [sys.executable, "-I", "-S", "-c", MEASURED, verifier, str(path), "--key", key]
    started = time.monotonic()
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    rate = done.end / (time.monotonic() - started)
    return [
        _row("export, one pass", written, "events/s", 0),
        _row("verify.py", rate, "events/s", GOALS["verify"]),
        ["verify.py, memory at most", f"{said.stderr.strip()} MiB", "256 MiB", f"{int(said.stderr) / 256:.2f}"],
    ]


def _row(what: str, rate: float, unit: str, goal: float) -> list[str]:
    return [what, f"{rate:,.0f} {unit}", f"{goal:,.0f}" if goal else "", f"{rate / goal:.2f}" if goal else ""]


if __name__ == "__main__":
    main()
