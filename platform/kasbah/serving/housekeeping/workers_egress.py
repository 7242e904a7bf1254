"""What workers report of refused connections, brought to the ledger. A report is signed, and believed no further."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from inference_worker.contract.egress import LONGEST, UNSHOWN
from inference_worker.contract.messages import EGRESS_SHOWN, Egress
from kasbah.audit.services import egress
from kasbah.serving.models import Worker

MOST = 2**40  # of anything that is counted: a column holds it, and so does a sum of many
NAMES = {"worker": "worker {}", "engine": "engine of worker {}"}


def count(number: int) -> int:
    """As the table takes it."""
    return min(max(number, 0), MOST)


def sound(reported: Iterable[Egress]) -> list[dict[str, Any]]:
    """What is kept of it on the worker's row: known processes, short printable destinations, times that were."""
    now = int(time.time())
    return [
        {
            "process": each.process,
            "destination": UNSHOWN.sub("?", each.destination)[-LONGEST:],
            "count": count(each.count),
            "first": min(max(each.first, 0), now),
            "last": min(max(each.last, 0), now),
        }
        for each in list(reported)[:EGRESS_SHOWN]
        if each.process in NAMES
    ]


def note(worker: Worker, before: Iterable[dict[str, Any]]) -> None:
    """Add what `worker.egress` says beyond `before`; a worker that was started anew counts from nothing."""
    known = {(each["process"], each["destination"], each["first"]): each["count"] for each in before}
    for process, name in NAMES.items():
        egress.write(
            name.format(worker.id),
            [
                egress.Refused(
                    each["destination"],
                    each["count"] - known.get((process, each["destination"], each["first"]), 0),
                    datetime.fromtimestamp(each["first"], UTC),
                    datetime.fromtimestamp(each["last"], UTC),
                )
                for each in worker.egress
                if each["process"] == process
            ],
        )
