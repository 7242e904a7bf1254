"""What is wrong with a worker, in words for the operator: kept on its row, shown by `workers` and `sites`.

A trouble is {code, text, since, seen}, the times in seconds since the epoch. Most are found anew at each look. Those in
MOMENTARY are seen now and then (two processes that alternate, a refusal), and stay for a minute after they were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from inference_worker.contract.bounds import line
from inference_worker.contract.messages import Report
from kasbah.audit.services import EventType, Resource, record
from kasbah.common import rls
from kasbah.identity.services import system
from kasbah.serving.dispatch.capacity import shown_offset
from kasbah.serving.models import Worker
from kasbah.serving.services.events import event

CLOCK_TOLERANCE = 5  # seconds that a clock may be off; a report may be two seconds old when it is read
STAYS, REFRESH = 60, 20  # seconds that a momentary one is shown; after which a repeated one is written again
STARTS = 8  # names of starts that are remembered
CLOCK, REPORT, OWN, ENGINE = "clock", "report", "worker", "engine"
DUPLICATE, STRAY, REFUSES = "duplicate", "stray", "refuses"
MOMENTARY = (DUPLICATE, STRAY, REFUSES)
TOLD = (CLOCK, REPORT, DUPLICATE)  # to the worker too, whose own log would not say it

logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    """A trouble as it was just seen."""

    code: str
    text: str


def of_clock(worker: Worker, offset: int) -> list[Finding]:
    """Notes how far the worker's clock is off. Small changes change nothing: each is logged and told."""
    known = worker.clock_offset
    if abs(offset) <= CLOCK_TOLERANCE:
        offset = 0
    elif known and abs(offset - known) <= max(3, abs(known) // 10):
        offset = known
    worker.clock_offset = offset
    return [Finding(CLOCK, f"its clock is {shown_offset(offset)}; set it")] if offset else []


def of_report(worker: Worker, report: Report) -> list[Finding]:
    """What a worker's own report says, and whether another process of the same identity runs."""
    found = [Finding(OWN, report.trouble)] if report.trouble else []
    found += [
        Finding(ENGINE, line(f"deployment {served.deployment}: {served.detail or 'failed'}"))
        for served in report.served
        if served.state == "failed"
    ]
    return found + of_start(worker, report)


def of_start(worker: Worker, report: Report) -> list[Finding]:
    """A start that comes back after another one had begun: two processes run with the worker's identity."""
    known = [(str(name), int(since)) for name, since in worker.starts]
    if not report.start or (known and known[0][0] == report.start):
        return []
    returns = any(name == report.start for name, _ in known)
    if returns and report.time <= known[0][1]:
        return []  # an old report that somebody gave again
    others = [(name, since) for name, since in known if name != report.start]
    worker.starts = [[report.start, report.time], *map(list, others)][:STARTS]
    if not returns:
        return []
    text = "two processes run with its identity: stop one, and enrol the other anew with an empty --state-dir"
    return [Finding(DUPLICATE, text)]


def of_refusal(code: str) -> Finding:
    """It would not run what it was sent."""
    if code == "wrong_site":
        return Finding(REFUSES, "it takes jobs of another site: give it the broker of its own site")
    return Finding(REFUSES, f"it refuses jobs: {code}")


def note(worker: Worker, found: Iterable[Finding], *, whole: bool) -> list[str]:
    """Bring `worker.troubles` up to date and answer the names of the fields to save.

    `whole`: `found` is all that a look found; else what is not in it stays. A change is logged; that two processes run
    with one identity is an event.
    """
    now, before = int(time.time()), list(worker.troubles)
    known = {each["code"]: each for each in before}
    after = [_trouble(finding, known.get(finding.code), now) for finding in _one_of_each(found)]
    seen = {each["code"] for each in after}
    after += [each for each in before if each["code"] not in seen and _stays(each, now, whole=whole)]
    if texts(before) != texts(after):
        _tell(worker, before, after)
    elif [each["seen"] for each in before] == [each["seen"] for each in after]:
        return []
    worker.troubles = after
    return ["troubles"]


def keep(worker: Worker, finding: Finding) -> None:
    """Add one to what is known of a worker, and save it."""
    with rls.platform_scope():
        if fields := note(worker, [finding], whole=False):
            worker.save(update_fields=fields)


def texts(troubles: Sequence[dict[str, Any]], codes: Sequence[str] = ()) -> list[str]:
    """In words; of these `codes` alone, where some are given."""
    return [str(each["text"]) for each in troubles if not codes or each["code"] in codes]


def _one_of_each(found: Iterable[Finding]) -> list[Finding]:
    """Several of one code become one."""
    joined: dict[str, str] = {}
    for code, text in found:
        joined[code] = line(f"{joined[code]}; {text}" if code in joined else text)
    return [Finding(code, text) for code, text in joined.items()]


def _trouble(finding: Finding, known: dict[str, Any] | None, now: int) -> dict[str, Any]:
    same = known is not None and known["text"] == finding.text
    since = known["since"] if known is not None and same else now
    seen = known["seen"] if known is not None and same and now - known["seen"] < REFRESH else now
    return {"code": finding.code, "text": finding.text, "since": since, "seen": seen}


def _stays(trouble: dict[str, Any], now: int, *, whole: bool) -> bool:
    if trouble["code"] in MOMENTARY:
        return bool(now - trouble["seen"] < STAYS)
    return not whole


def _tell(worker: Worker, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    where = worker.name, worker.site.slug
    if after:
        logger.warning("Worker %s of site %s: %s", *where, "; ".join(texts(after)))
    else:
        logger.warning("Worker %s of site %s: nothing is wrong any more", *where)
    if DUPLICATE in {each["code"] for each in after} - {each["code"] for each in before}:
        resource = Resource("worker", str(worker.id))
        site, ident = str(worker.site_id), str(worker.id)
        record(event(EventType.WORKER_DUPLICATED, system("housekeeping"), resource, site=site, worker=ident))
