"""`python -m benchmarks.celery`: round trips a second, and CPU a task, with Celery's stock parts and with the worker's.

Both workers run side by side on their own queues of one Valkey; the load goes to one and the other in turn, so what
else the machine does falls on both. Messages are Celery's (protocol 2), pushed by an asynchronous pipeline.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Connection
from redis.asyncio import Redis

from benchmarks.accounting import cpu_seconds
from benchmarks.celery.worker import LOOP, STOCK, TASK
from benchmarks.table import show
from infra.local.home import REPOSITORY
from infra.local.valkey import valkey

LEVELS = (1, 16, 64)


@dataclass(frozen=True)
class Round:
    """One measurement: round trips a second; milliseconds of CPU a task, of the worker."""

    rate: float
    cpu: float


@contextlib.contextmanager
def worker(kind: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A measured worker on the queue that is named as its kind."""
    command = [sys.executable, "-m", "benchmarks.celery.worker", kind, kind]
    child = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "BROKER": url})
    try:
        yield child
    finally:
        child.terminate()
        child.wait(10)


def envelope(queue: str) -> str:
    """A message as Celery and kombu write it, with a placeholder where each has its own tag."""
    app = Celery("benchmark", set_as_current=False)
    task = app.amqp.as_task_v2("@tag@", TASK, args=("x" * 64,), ignore_result=True)
    with Connection("memory://") as connection:
        channel: Any = connection.channel()
        body = json.dumps(task.body)
        message = channel.prepare_message(body, 0, "application/json", "utf-8", task.headers, dict(task.properties))
        message["body"], encoding = channel.encode_body(body, channel.body_encoding)
    message["properties"] |= {
        "body_encoding": encoding,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_mode": 2,
        "delivery_tag": "@tag@",
    }
    return json.dumps(message)


async def drive(url: str, queue: str, concurrency: int, tasks: int) -> float:
    """Keep so many tasks on their way until so many came back; round trips a second."""
    redis, template, stream = Redis.from_url(url), envelope(queue), f"{queue}:replies"
    await redis.delete(stream)
    sent = done = 0
    last = "0"
    started = time.monotonic()
    while done < tasks:
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(min(concurrency - (sent - done), tasks - sent)):
                pipe.lpush(queue, template.replace("@tag@", str(uuid.uuid4())))
                sent += 1
            pipe.xread({stream: last}, block=10_000 if done < sent else 1)
            entries = (await pipe.execute())[-1]
        if not entries:
            raise SystemExit(f"the worker of {queue} answered {done} of {sent} tasks and then none for ten seconds")
        (_, found), *_ = entries if isinstance(entries, list) else entries.items()
        found = found[0] if isinstance(entries, dict) else found
        done, last = done + len(found), found[-1][0]
    elapsed = time.monotonic() - started
    await redis.aclose()
    return tasks / elapsed


def measure(url: str, children: dict[str, subprocess.Popen[bytes]], level: int, tasks: int) -> dict[str, Round]:
    """One round of each, one after the other."""
    result = {}
    for kind, child in children.items():
        before = cpu_seconds(child.pid)
        rate = asyncio.run(drive(url, kind, level, tasks))
        result[kind] = Round(rate, (cpu_seconds(child.pid) - before) / tasks * 1000)
    return result


def main() -> None:
    """Entry."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.celery", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000, help="a round (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told (default: 3)")
    arguments = parser.parse_args()
    rows = []
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksb-")))
        url = stack.enter_context(valkey(home, "site", aof=False)).url
        children = {kind: stack.enter_context(worker(kind, url)) for kind in (STOCK, LOOP)}
        measure(url, children, 16, 100)
        for level in LEVELS:
            tasks = max(arguments.tasks // (4 if level == 1 else 1), 1)
            rounds = [measure(url, children, level, tasks) for _ in range(arguments.rounds)]
            for kind in children:
                rate = statistics.median(one[kind].rate for one in rounds)
                cpu = statistics.median(one[kind].cpu for one in rounds)
                rows.append([kind, str(level), f"{rate:.0f}", f"{cpu:.2f}"])
    show("Celery, fake tasks", ["parts", "at once", "round trips/s", "CPU ms a task"], rows)


if __name__ == "__main__":
    main()
