"""Recording events, and giving them their places."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from uuid import uuid4

from benchmarks.audit.rows import BACKLOG, event, rate_row, wait_row

CLIENTS = 64
PAUSE = 0.05  # seconds on average between two requests of a client


def one_a_commit(seconds: float, threads: int) -> list[str]:
    """The Django path: each event in a transaction of its own, while the sequencer follows."""
    from django.db import connection

    from kasbah.audit.log.sequencer import sequence
    from kasbah.audit.services import record
    from kasbah.common import rls

    tenant, counts, end = uuid4(), [0] * threads, time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < end:
            with rls.tenant_scope(tenant):
                record(event(tenant))
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
    return rate_row("durable and sequenced, one event a commit (Django)", rate, "events/s", 3_000)


def in_groups(seconds: float) -> list[str]:
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
                    await insert(connection, [event(tenant) for _ in range(128)])
                count += 128
            return count / (time.monotonic() - started)
        finally:
            await database.close()

    return rate_row("group commit of 128", asyncio.run(measure()), "events/s", 25_000)


def added_by_the_intent(seconds: float) -> list[str]:
    """What a request waits for its intent: clients that come as they like, and the gateway's group commit."""
    from kasbah.audit.services import Event, insert
    from kasbah.common.database import Database
    from kasbah.common.groupcommit import GroupCommit

    async def measure() -> list[float]:
        database, waits, tenant = Database(2), [], uuid4()
        await database.open()

        async def flush(events: list[Event]) -> None:
            async with database.transaction(None) as connection:
                await insert(connection, events)

        group, end = GroupCommit(flush, 128), time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < end:
                await asyncio.sleep(random.uniform(0, 2 * PAUSE))
                started = time.perf_counter()
                await group.submit(event(tenant))
                waits.append(time.perf_counter() - started)

        try:
            await group.submit(event(tenant))
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
        finally:
            await database.close()
        return waits

    return wait_row(f"added to a request by its intent ({CLIENTS} clients)", asyncio.run(measure()), 0.010)


def sequencing(events: int) -> list[str]:
    """How fast a backlog is given its places."""
    from django.db import connection

    from kasbah.audit.log.sequencer import sequence
    from kasbah.common import rls

    while sequence().events:
        pass
    tenant = BACKLOG
    body = json.loads(event(tenant).encoded)
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
    return rate_row("sequencing a backlog", done / (time.monotonic() - started), "events/s", 0)


def behind(seconds: float) -> list[str]:
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
                record(event(tenant))
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
    return wait_row("commit to signed checkpoint", waits, 1.0)
