"""Two sites in two network namespaces, and not one byte of a confined job on the other site's link.

The acceptance test of data residency; docs/auditor/residency-proof.md tells what it shows and what it does not. Real
PostgreSQL, Valkey, gateway, housekeeping and workers; only the engine is a fake.
"""

from __future__ import annotations

import collections
import json
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.valkey import Valkey
from kasbah.audit.models import EgressAttempt
from kasbah.common import rls
from kasbah.residency.services import signing_keys
from kasbah.serving.models import Worker
from tests.gateway.stack import wait_until
from tests.integration.capture import Held
from tests.integration.two_sites import (
    ABROAD,
    CONFINED,
    FREE,
    HOME,
    UNFILTERED,
    Call,
    Sites,
    connected_to,
    marker,
    messages,
    needles,
    offline,
    two_sites,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BEFORE, AFTER = 880, 120  # requests while both sites stand, and once the home site is dead
VERIFIER = Path(__file__).parents[2] / "docs" / "auditor" / "verify_receipt.py"

# Checks pairs of receipt and ticket with the auditor's own program.
VERIFY = """
import json, runpy, sys
program = runpy.run_path(sys.argv[1])
workers, control = (program["read_keys"](path) for path in sys.argv[2:4])
for line in open(sys.argv[4]):
    receipt, ticket = json.loads(line)
    fields = program["verify_receipt"](receipt, workers)
    permitted = program["verify_ticket"](ticket, control, fields)
    print(json.dumps([fields["job"], fields["site"], permitted["sites"]]))
"""


@pytest.fixture
def sites(
    transactional_db: None, valkey_server: Valkey, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sites]:
    """See `two_sites`; leases are short, so that what a killed worker held is soon sent again."""
    monkeypatch.setenv("KASBAH_LEASE_MS", "3000")
    folder = Path(tempfile.mkdtemp(prefix="ksb-two-"))
    try:
        with two_sites(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_confined_job_never_reaches_the_other_site(sites: Sites) -> None:
    _each_worker_reaches_its_broker_alone(sites)
    standing = sites.ask_all(
        range(BEFORE),
        {
            100: lambda: sites.restart(HOME),
            250: lambda: sites.restart(ABROAD),
            400: lambda: sites.restart(HOME, "second"),
            550: lambda: sites.restart(HOME),
            700: lambda: sites.restart(ABROAD),
        },
    )
    for name in ("worker", "second"):
        sites.kill(HOME, name)
    sites.stack.places[HOME].store.kill()
    dead = sites.ask_all(range(BEFORE, BEFORE + AFTER), {})
    _answers_are_as_the_policy_says(standing, dead)

    unfiltered = sites.stack.start_web("unfiltered", ["-c", UNFILTERED])
    leaked = sites.ask(10**6, url=unfiltered.url, who=CONFINED)
    assert (leaked.status, leaked.site) == (200, ABROAD), "the negative control was to be answered abroad"

    assert not EgressAttempt.objects.exists(), "nobody wanted a destination that is not on his list"

    home, abroad = sites.held(HOME), sites.held(ABROAD)
    _not_one_byte_crossed(sites, home, abroad, leaked)
    _receipts_name_the_home_site(sites, leaked)


def _each_worker_reaches_its_broker_alone(sites: Sites) -> None:
    """Row 16 of the design's table: what could connect elsewhere does not."""
    for full, worker in sites.stack.workers.items():
        store = sites.stack.places[full.rpartition("-")[2]].store
        wait_until(lambda pid=worker.pid: connected_to(pid), f"{full} to connect")  # type: ignore[misc]
        assert connected_to(worker.pid) == {f"{store.host}:{store.port}"}
    place, store = sites.places[HOME], sites.stack.places[HOME].store
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    for host, port, reached in [
        (store.host, store.port, True),
        (sites.stack.places[ABROAD].store.host, sites.stack.places[ABROAD].store.port, False),
    ]:
        command = [*place.launcher, sys.executable, "-c", connect, host, str(port)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=20)
        assert (done.returncode == 0) is reached, done.stderr


def _answers_are_as_the_policy_says(standing: list[Call], dead: list[Call]) -> None:
    got = {
        (phase, who): collections.Counter((call.status, call.code) for call in calls if call.who == who)
        for phase, calls in (("standing", standing), ("dead", dead))
        for who in (CONFINED, FREE)
    }
    print(f"\n{got}")
    assert len(standing) + len(dead) == BEFORE + AFTER
    for call in standing + dead:
        if call.data_class == "secret":
            assert (call.status, call.code) == (403, "residency_denied"), call
        elif call.who == CONFINED:
            assert call.status != 403, call
            assert call.site in {"", HOME}, call
    assert got["standing", CONFINED][200, ""] >= 0.9 * sum(
        call.data_class != "secret" for call in standing if call.who == CONFINED
    )
    assert not got["dead", CONFINED][200, ""]
    assert {status for status, _ in got["dead", CONFINED]} == {403, 503}
    assert {code for status, code in got["dead", CONFINED] if status == 503} <= {"no_capacity", "service_unavailable"}
    assert {call.site for call in standing if call.who == FREE and call.status == 200} == {HOME, ABROAD}
    # Who may go elsewhere goes on, but for what was sent to the dead site before the gateway noticed.
    assert got["dead", FREE][200, ""] >= 0.5 * got["dead", FREE].total()


def _not_one_byte_crossed(sites: Sites, home: Held, abroad: Held, leaked: Call) -> None:
    sent_home, sent_abroad = messages(home), messages(abroad)
    confined = {str(job.id): job.request_id for job in sites.jobs(CONFINED)}
    crossed = next(job for job, request in confined.items() if request == leaked.request_id)
    free = {str(job.id): job.request_id for job in sites.jobs(FREE)}
    theirs = [job for job in sent_abroad if job in free][:40]
    at_home = [job for job in confined if job in sent_home and job != crossed]
    asked = {call.request_id for call in sites.calls if call.who == CONFINED} - {leaked.request_id}
    looked_for: dict[str, dict[str, Iterable[bytes]]] = {
        "confined": {name: made for job in at_home for name, made in needles(sent_home[job], confined[job]).items()},
        "asked": {f"asked {request}": [request.encode()] for request in asked},
        "free": {name: made for job in theirs for name, made in needles(sent_abroad[job], free[job]).items()},
        "leaked": dict(needles(sent_abroad[crossed], leaked.request_id)),
        "prompts": {marker(number): [marker(number).encode()] for number in range(BEFORE + AFTER)},
    }
    everything = {name: made for group in looked_for.values() for name, made in group.items()}
    found = {link: held.holding(everything).keys() for link, held in ((HOME, home), (ABROAD, abroad))}

    def kinds(group: str, link: str) -> collections.Counter[str]:
        return collections.Counter(name.split()[0] for name in looked_for[group].keys() & found[link])

    assert len(at_home) > BEFORE / 2
    assert kinds("confined", ABROAD) == kinds("asked", ABROAD) == {}
    # The same search finds what is there: the confined jobs on the home link, those of the free tenant abroad, and the
    # one that was let through on purpose.
    assert kinds("confined", HOME) == dict.fromkeys(("id", "ticket", "payload"), len(at_home))
    assert kinds("free", ABROAD) == dict.fromkeys(("id", "ticket", "payload"), 40)
    assert kinds("leaked", ABROAD) == dict.fromkeys(("id", "ticket", "payload"), 1)
    assert kinds("prompts", HOME) == kinds("prompts", ABROAD) == {}, "a prompt crossed a link in clear text"


def _receipts_name_the_home_site(sites: Sites, leaked: Call) -> None:
    answered = {call.request_id for call in sites.calls if call.who == CONFINED and call.status == 200}
    jobs = {str(job.id): job for job in sites.jobs(CONFINED) if job.request_id in answered - {leaked.request_id}}
    with rls.platform_scope():
        keys = [bytes(worker.public_key) for worker in Worker.objects.all()]
    files = {"workers": keys, "control": signing_keys.control_keys().published}
    for name, trusted in files.items():
        (sites.folder / name).write_text("".join(f"{b64encode(key).decode()}\n" for key in trusted))
    pairs = "".join(json.dumps([job.receipt, job.ticket]) + "\n" for job in jobs.values())
    (sites.folder / "pairs").write_text(pairs)
    output = offline(
        "-c", VERIFY, str(VERIFIER), *(str(sites.folder / name) for name in ("workers", "control", "pairs"))
    )
    expected = str(sites.stack.places[HOME].site.id)
    assert [json.loads(line) for line in output.splitlines()] == [[name, expected, [expected]] for name in jobs]
    assert len(jobs) > BEFORE / 2
