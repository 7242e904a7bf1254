"""The ledger of egress: what a process is refused becomes a row, an event and a line for people."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from inference_worker.contract.messages import Egress, Hardware, Report
from kasbah.audit.egress.models import EgressAttempt
from kasbah.audit.services import egress
from kasbah.common import rls
from kasbah.config.egress import own_endpoints
from kasbah.residency.services import create_site
from kasbah.serving.housekeeping.reports import take_report
from kasbah.serving.models import Worker
from tests import factories

ROOT = Path(__file__).parents[2]

# A process of the control plane that a library in it makes phone home, before and after a site is known.
PROCESS = """
import socket, sys, time
from kasbah.config.egress import guard
made = guard("trial")
import django
django.setup()

def wanted(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError as error:
        return type(error).__name__

store, elsewhere = int(sys.argv[1]), int(sys.argv[2])
found = [wanted(elsewhere), wanted(elsewhere), wanted(store)]
from kasbah.residency.models import Site
from kasbah.residency.services import broker_url
broker_url(Site.objects.get())
found += [wanted(store), wanted(elsewhere)]
print(",".join(map(str, found)))
if sys.argv[3] == "stays":
    time.sleep(2.5)
    import os
    os._exit(0)  # what was written was written by the thread
"""


def events() -> list[dict[str, object]]:
    return [event for event in factories.events_of(None) if event["type"] == "egress.refused"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["ends", pytest.param("stays", marks=pytest.mark.slow)])
def test_a_process_is_refused_and_it_is_on_record(how: str) -> None:
    create_site(factories.SYSTEM, "paris", "Paris", "FR", "redis://127.0.0.1:9/0")
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, "9", "10", how],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "kasbah.config.settings", "PYTHONPATH": f"{ROOT}/platform:{ROOT}"},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["EgressRefused,EgressRefused,EgressRefused,ConnectionRefusedError,EgressRefused"], (
        done.stderr
    )
    rows = {row.destination: row for row in EgressAttempt.objects.all()}
    assert {name: row.count for name, row in rows.items()} == {"127.0.0.1:10": 3, "127.0.0.1:9": 1}
    assert all(row.process.startswith("trial@") for row in rows.values())
    assert {event["resource"]["id"]: event["details"] for event in events()} == {
        "127.0.0.1:10": {"count": 3, "total": 3},
        "127.0.0.1:9": {"count": 1, "total": 1},
    }
    out = io.StringIO()
    call_command("egress", "--json", stdout=out)
    assert {(row["destination"], row["count"]) for row in json.loads(out.getvalue())} == {
        ("127.0.0.1:10", 3), ("127.0.0.1:9", 1),
    }  # fmt: skip


@pytest.mark.django_db
def test_an_event_a_destination_and_minute_with_what_came_together() -> None:
    then = datetime(2026, 1, 1, tzinfo=UTC)
    for count in (2, 3, 0):
        egress.write("serve@a", [egress.Refused("idp.example:443", count, then, then)])
    egress.write("serve@b", [egress.Refused("idp.example:443", 1, then, then)])
    assert [(event["actor"]["id"], event["details"]) for event in events()] == [
        ("serve@a", {"count": 2, "total": 2}),
        ("serve@b", {"count": 1, "total": 1}),
    ]
    egress.tell()
    assert len(events()) == 2
    with rls.platform_scope():
        EgressAttempt.objects.update(told_at=timezone.now() - timedelta(minutes=2))
    egress.tell()
    egress.tell()
    assert [event["details"] for event in events()[2:]] == [{"count": 3, "total": 5}]


@pytest.mark.django_db
def test_the_ledger_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "ROWS", 3)
    now = timezone.now()
    egress.write("serve@a", [egress.Refused(f"h{number}.example:dns", 1, now, now) for number in range(7)])
    assert dict(EgressAttempt.objects.values_list("destination", "count")) == {
        "h0.example:dns": 1, "h1.example:dns": 1, "h2.example:dns": 1, "others": 4,
    }  # fmt: skip


def refused(destination: str, count: int, first: int = 1000, process: str = "worker") -> Egress:
    return Egress(process=process, destination=destination, count=count, first=first, last=2000)


@pytest.mark.django_db
def test_what_a_worker_reports_is_added_up_and_believed_no_further() -> None:
    site = create_site(factories.SYSTEM, "paris", "Paris", "FR", "redis://127.0.0.1:9/0")
    worker = Worker.objects.create(site=site, name="w", public_key=os.urandom(32))

    def report(*attempts: Egress) -> None:
        take_report(
            worker,
            Report(
                worker=str(worker.id), site=str(site.id), sequence=1, time=1, state="active", served=[],
                hardware=Hardware(), engine="vllm", egress=list(attempts),
                egress_refused=sum(each.count for each in attempts),
            ),
        )  # fmt: skip

    report(refused("a.example:443", 2), refused("8.8.8.8:80", 1, process="engine"))
    report(refused("a.example:443", 5), refused("8.8.8.8:80", 1, process="engine"))
    report(refused("a.example:443", 1, first=1500))  # it was started anew
    rows = {(row.process, row.destination): row.count for row in EgressAttempt.objects.all()}
    assert rows == {
        (f"worker {worker.id}", "a.example:443"): 6, (f"engine of worker {worker.id}", "8.8.8.8:80"): 1,
    }  # fmt: skip
    shown = Worker.objects.get()
    assert (shown.egress_refused, [each["destination"] for each in shown.egress]) == (1, ["a.example:443"])
    report(
        Egress(process="worker", destination="\x1b[31m" + "x" * 9999, count=2**62, first=-5, last=2**62),
        Egress(process="root", destination="a:1", count=1, first=1, last=1),
        *[refused(f"h{number}.example:1", 1) for number in range(500)],
    )
    shown.refresh_from_db()
    assert len(json.dumps(shown.egress)) < 5000
    assert EgressAttempt.objects.count() <= 2 + 16


def test_what_the_settings_name_is_on_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASBAH_DATABASE_URL", "postgresql://app:pw@db.example/kasbah")
    monkeypatch.setenv("KASBAH_OWNER_DATABASE_URL", "postgresql://own:pw@/kasbah?host=db2.example")
    monkeypatch.setenv("KASBAH_REDIS_URL", "redis://:pw@store.example:7000/0")
    monkeypatch.setenv("KASBAH_EGRESS_ALLOW", "id.example:443, [2001:db8::1]:53")
    assert own_endpoints() == [
        "redis://:pw@store.example:7000/0", "127.0.0.1:8080", "db.example:5432", "db2.example:5432",
        "id.example:443", "[2001:db8::1]:53",
    ]  # fmt: skip


def test_a_list_that_cannot_be_read_stops_the_start() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env={**os.environ, "KASBAH_EGRESS_ALLOW": "id.example"},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "KASBAH_EGRESS_ALLOW" in done.stderr
    assert "Traceback" not in done.stderr
