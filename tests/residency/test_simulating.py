"""Simulations of what the audit log holds: exact counts, a period, who may, what is on record, bounded memory."""

from __future__ import annotations

import gc
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from kasbah.audit.models import Intake
from kasbah.audit.services import ActorRef, Event, EventType, record
from kasbah.audit.services import Policy as PolicyFacts
from kasbah.common import rls
from kasbah.common.errors import Forbidden, Invalid, NotFound
from kasbah.identity.models import Role
from kasbah.identity.services import actor_of_user
from kasbah.residency.recorded import INCOMPLETE, UNREADABLE
from kasbah.residency.services import Question, compile_policy
from kasbah.residency.services.simulation import Period, Simulation, simulate_policy
from kasbah.residency.simulation import Kind
from tests import factories
from tests.factories import SYSTEM, Household

from .documents import SITES, allow, deny, document
from .past import draft, ident, remember, remember_many

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
OPEN = compile_policy(document(allow(), allow("tagged", tags=["*"])))
CLOSED = compile_policy(document())
FRANCE_ONLY = document(allow("france", jurisdictions=["FR"]))


def ask(home: Household, **fields: Any) -> Question:
    facts = {"data_class": "internal", "model": "mixtral", "sites": SITES, "project": str(home.project.id)}
    return Question(tenant=home.tenant.id, **(facts | fields))


def week() -> Period:
    return Period.of(None, None)


@pytest.fixture
def home(db: None) -> Household:
    return factories.household()


def simulate(home: Household, given: dict[str, Any], period: Period | None = None) -> Simulation:
    return simulate_policy(SYSTEM, home.tenant, draft(home.tenant, given), period or week())


def test_the_line_for_the_person_who_decides(home: Household) -> None:
    now = timezone.now()
    for _ in range(3):
        remember(OPEN, ask(home, sites=SITES[2:3]), now - HOUR)
    opened = remember(CLOSED, ask(home, sites=SITES[:1]), now - 2 * HOUR)
    remember(OPEN, ask(home, sites=SITES[:1]), now - HOUR)
    remember(CLOSED, ask(home, data_class="secret"), now - HOUR)
    found = simulate(home, FRANCE_ONLY)
    assert found.summary == "would newly deny 3 requests of the last 7 days and newly allow 1"
    assert found.tally.counts == {
        Kind.NEWLY_DENIED: 3,
        Kind.NEWLY_ALLOWED: 1,
        Kind.UNCHANGED_ALLOWED: 1,
        Kind.UNCHANGED_DENIED: 1,
    }
    assert found.tally.examples[Kind.NEWLY_ALLOWED] == [opened]
    assert found.tally.groups["project", str(home.project.id)].total() == 6


def test_moved_and_not_comparable_are_said_too(home: Household) -> None:
    now = timezone.now()
    remember(OPEN, ask(home), now - HOUR)
    for missing in ("class_asked", "at", "places"):
        remember(OPEN, ask(home), now - HOUR, **{missing: None})
    remember(OPEN, ask(home), now - HOUR, places=["nonsense"])
    found = simulate(home, FRANCE_ONLY)
    assert found.summary == (
        "would newly deny 0 requests of the last 7 days and newly allow 0; 1 more would be allowed at other sites than "
        "they were; 4 could not be compared"
    )
    assert found.tally.unknown == {INCOMPLETE: 3, UNREADABLE: 1}
    assert found.tally.sites == {"rabat": {"lost": 1}, "tokyo": {"lost": 1}}


def test_every_condition_of_the_request_is_asked_again(home: Household) -> None:
    now = timezone.now()
    remember(OPEN, ask(home, tags=("personal",), purpose="support"), now - HOUR)
    same = allow(tags=["personal"], purposes=["support"], projects=[str(home.project.id)], models=["mixtral"])
    assert simulate(home, document(same)).tally.counts == {Kind.UNCHANGED_ALLOWED: 1}
    for other in (
        {"tags": ["health"]},
        {"purposes": ["research"]},
        {"projects": [str(home.tenant.id)]},
        {"models": ["qwen"]},
    ):
        found = simulate_policy(SYSTEM, home.tenant, document({**same, **other}), week())
        assert found.tally.counts == {Kind.NEWLY_DENIED: 1}, other


def test_what_was_classified_is_asked_as_it_was_asked(home: Household) -> None:
    now = timezone.now()
    remember(OPEN, ask(home, tags=("personal",)), now - HOUR, tags_asked=[], looked_for=["email"], classified="email 2")
    assert simulate(home, document(allow())).tally.counts == {Kind.UNCHANGED_ALLOWED: 1}
    looks = {"detect": ["email"], "tags": ["personal"]}
    assert simulate(home, document(allow(), classifier=looks)).tally.counts == {Kind.NEWLY_DENIED: 1}


def test_the_period_holds_to_the_microsecond(home: Household) -> None:
    since = datetime(2026, 3, 1, tzinfo=UTC)
    until = since + timedelta(days=1)
    inside = [remember(OPEN, ask(home), moment) for moment in (since, until - timedelta(microseconds=1))]
    for outside in (since - timedelta(microseconds=1), until):
        remember(OPEN, ask(home), outside)
    found = simulate(home, document(), Period.of(since, until))
    assert found.tally.examples[Kind.NEWLY_DENIED] == inside
    assert found.tally.requests == 2
    assert "from 2026-03-01T00:00:00Z to 2026-03-02T00:00:00Z" in found.summary


@pytest.mark.parametrize(
    ("since", "until", "says"),
    [(HOUR, 2 * HOUR, "ends before"), (HOUR, HOUR, "ends before"), (timedelta(days=93), HOUR * 0, "92 days")],
)
def test_a_period_is_bounded(since: timedelta, until: timedelta, says: str) -> None:
    now = timezone.now()
    with pytest.raises(Invalid, match=says) as caught:
        Period.of(now - since, now - until)
    assert caught.value.param == "since"


def test_denials_for_other_reasons_and_other_events_are_not_looked_at(home: Household) -> None:
    remember(OPEN, ask(home), timezone.now() - HOUR)
    with rls.tenant_scope(home.tenant.id):
        (row,) = Intake.objects.filter(type="inference.intent")
        for kind, reason in (("inference.denied", "insufficient_quota"), ("inference.outcome", "")):
            event = json.loads(bytes(row.event)) | {"type": kind, "reason": reason}
            Intake.objects.create(
                id=ident(timezone.now()), tenant_id=home.tenant.id, type=kind, event=json.dumps(event).encode()
            )
    assert simulate(home, document()).tally.requests == 1


def test_an_event_that_cannot_be_read_is_counted_and_stops_nothing(home: Household) -> None:
    remember(OPEN, ask(home), timezone.now() - HOUR)
    with rls.tenant_scope(home.tenant.id):
        Intake.objects.create(
            id=ident(timezone.now()), tenant_id=home.tenant.id, type="inference.intent", event=b"not json"
        )
    found = simulate(home, document())
    assert (found.tally.requests, found.tally.unknown) == (2, {UNREADABLE: 1})


def test_a_job_in_the_background_is_named_as_not_comparable(home: Household) -> None:
    """As serving.services.background records it: neither a model nor what was asked stands in its intent."""
    now = timezone.now()
    event = Event(
        id=ident(now),
        time=now,
        type=EventType.INFERENCE_INTENT,
        tenant_id=home.tenant.id,
        actor=ActorRef("api_key", "k", "api_key"),
        request_id="req_background",
        policy=PolicyFacts("p", 1, "allow"),
        details={"data_class": "internal", "endpoint": "/v1/chat/completions", "background": True},
    )
    with rls.tenant_scope(home.tenant.id):
        record(event)
    found = simulate(home, document())
    assert found.tally.unknown == {INCOMPLETE: 1}
    assert found.tally.examples[Kind.NOT_COMPARABLE] == ["req_background"]


def test_another_tenants_requests_are_not_there(home: Household) -> None:
    stranger = factories.household()
    remember(OPEN, ask(stranger), timezone.now() - HOUR)
    assert simulate(home, document()).tally.requests == 0
    assert simulate(stranger, document()).tally.requests == 1


def test_who_may_simulate_and_that_it_is_on_record(home: Household) -> None:
    version = draft(home.tenant, FRANCE_ONLY)
    remember(OPEN, ask(home), timezone.now() - HOUR)
    for role in (Role.DEVELOPER, Role.OPERATOR):
        person = factories.user()
        factories.membership(home.tenant, person, role)
        with pytest.raises(Forbidden):
            simulate_policy(actor_of_user(person), home.tenant, version, week())
    with pytest.raises(NotFound):
        simulate_policy(actor_of_user(factories.household().admin), home.tenant, version, week())
    before = len(factories.events_of(home.tenant.id))
    simulate_policy(actor_of_user(home.admin), home.tenant, version, week())
    (event,) = factories.events_of(home.tenant.id)[before:]
    assert event["type"] == "policy.simulated"
    assert event["resource"]["id"] == str(version.id)  # type: ignore[index]
    details: Any = event["details"]
    assert (details["version"], details["requests"], details["moved"]) == (version.version, 1, 1)


def test_a_simulation_changes_no_state_and_its_setting_ends_with_it(home: Household) -> None:
    version = draft(home.tenant, FRANCE_ONLY)
    simulate_policy(SYSTEM, home.tenant, version, week())
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout')")
        assert cursor.fetchone() == ("0",)
    with rls.tenant_scope(home.tenant.id):
        assert list(home.tenant.policies.values_list("state", flat=True)) == ["draft"]


def test_too_many_for_the_time_is_said_clearly(home: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        remember(OPEN, ask(home), timezone.now() - HOUR)
    monkeypatch.setattr("kasbah.residency.services.simulation.LOOK_AT_CLOCK", 1)
    with pytest.raises(Invalid, match="shorter one") as caught:
        simulate_policy(SYSTEM, home.tenant, document(), week(), seconds=0)
    assert caught.value.code == "period_too_long"
    del caught
    gc.collect()  # nothing is left of the cursor that would break the transaction which comes next
    assert len(factories.events_of(home.tenant.id)) == 3


def test_the_clock_also_runs_over_what_is_not_looked_at(home: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of requests that were refused for a quota takes time too."""
    with rls.tenant_scope(home.tenant.id):
        event = {"type": "inference.denied", "reason": "insufficient_quota", "time": "2026-01-01T00:00:00.000000Z"}
        event |= {"model": {"name": "m"}, "policy": {}, "details": {}}
        Intake.objects.create(
            id=ident(timezone.now()),
            tenant_id=home.tenant.id,
            type="inference.denied",
            event=json.dumps(event).encode(),
        )
    monkeypatch.setattr("kasbah.residency.services.simulation.LOOK_AT_CLOCK", 1)
    with pytest.raises(Invalid, match="shorter one"):
        simulate_policy(SYSTEM, home.tenant, document(), week(), seconds=0)


def test_a_statement_that_takes_too_long_is_said_clearly(home: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> Iterator[bytes]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")
        yield b""

    monkeypatch.setattr("kasbah.residency.services.simulation.stream", slow)
    monkeypatch.setattr("kasbah.residency.services.simulation.STATEMENT_SECONDS", 1)
    with pytest.raises(Invalid, match="shorter one"):
        simulate_policy(SYSTEM, home.tenant, document(), week())


class TestCommand:
    """`manage.py simulatepolicy`."""

    def run(self, *arguments: str) -> Any:
        out = io.StringIO()
        call_command("simulatepolicy", *arguments, "--json", stdout=out, stderr=io.StringIO())
        return json.loads(out.getvalue())

    def test_a_file_or_a_version(self, home: Household, tmp_path: Path) -> None:
        remember(OPEN, ask(home), timezone.now() - HOUR)
        file = tmp_path / "draft.json"
        file.write_text(json.dumps(document()))
        tenant = ("--tenant", home.tenant.slug)
        assert self.run(*tenant, "--file", str(file))["counts"]["newly_denied"] == 1
        kept = draft(home.tenant, FRANCE_ONLY)
        for named in (str(kept.id), str(kept.version)):
            found = self.run(*tenant, "--policy", named, "--days", "1")
            assert (found["counts"]["moved"], found["policy_version"]) == (1, kept.version)
            assert found["summary"].startswith("would newly deny 0 requests of the last 24 hours")

    def test_the_table_of_changes(self, home: Household, tmp_path: Path) -> None:
        request = remember(OPEN, ask(home), timezone.now() - HOUR)
        kept, file = draft(home.tenant, FRANCE_ONLY), tmp_path / "changes.csv"
        arguments = ("--tenant", home.tenant.slug, "--policy", str(kept.version), "--csv", str(file))
        self.run(*arguments)
        head, line = file.read_text().splitlines()
        assert head == "request_id,time,kind,data_class,model,project,before,after,rule,lost,gained"
        assert line.startswith(f"{request},")
        assert line.endswith("moved,internal,mixtral," + f"{home.project.id},allowed,allowed,default_deny,rabat tokyo,")
        with pytest.raises(CommandError, match="exists already"):
            self.run(*arguments)

    def test_for_people(self, home: Household, capsys: pytest.CaptureFixture[str]) -> None:
        remember(OPEN, ask(home), timezone.now() - HOUR)
        kept = draft(home.tenant, document(deny("all", sites=["*"])))
        call_command("simulatepolicy", "--tenant", home.tenant.slug, "--policy", str(kept.version))
        text = capsys.readouterr().out
        assert "would newly deny 1 request of the last 7 days and newly allow 0" in text
        assert "all: 1" in text

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--policy", "9"), "no policy 9"),
            (("--policy", "x"), "neither an id nor a number"),
            (("--policy", "1", "--days", "0"), "days from 1 to 92"),
            (("--policy", "1", "--days", "93"), "days from 1 to 92"),
            (("--file", "/nonexistent"), "Cannot read"),
            (("--policy", "1", "--csv", "/nonexistent/x"), "Cannot write"),
        ],
    )
    def test_bad_input_is_one_clear_line(self, home: Household, arguments: tuple[str, ...], says: str) -> None:
        draft(home.tenant, FRANCE_ONLY)
        with pytest.raises(CommandError, match=says):
            call_command("simulatepolicy", "--tenant", home.tenant.slug, *arguments, stdout=io.StringIO())


def resident(kind: str) -> int:
    """MiB of memory of this process: now (VmRSS) or at most since the peak was forgotten (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) // 1024
    raise AssertionError(kind)


def peak_of(work: Any) -> int:
    """MiB that `work` needed at its peak beyond what was there before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): forget the peak
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_hundred_and_twenty_thousand_requests_in_bounded_memory(superuser: Any) -> None:
    home, count = factories.household(), 120_000
    site = SITES[0]
    remember_many(superuser, home.tenant.id, f"{site.id} {site.slug} {site.jurisdiction}", count)
    version = draft(home.tenant, document(allow(data_classes=["internal"]), deny("no-qwen", models=["qwen"])))
    heard: list[int] = []
    found: list[Simulation] = []

    def run() -> None:
        found.append(simulate_policy(SYSTEM, home.tenant, version, week(), progress=heard.append))

    simulate_policy(SYSTEM, home.tenant, version, Period.of(timezone.now() - HOUR, None))  # what is loaded once
    began = time.monotonic()
    grown = peak_of(run)
    print(f"{count} requests in {time.monotonic() - began:.1f} s, {grown} MiB more at the peak")
    # Confidential: every tenth; for qwen: every fourth; both: every twentieth.
    denied = count // 10 + count // 4 - count // 20
    assert found[0].tally.counts == {Kind.NEWLY_DENIED: denied, Kind.UNCHANGED_ALLOWED: count - denied}
    assert found[0].tally.groups["rule", "no-qwen"] == {Kind.NEWLY_DENIED: count // 4}
    assert heard == list(range(1_000, count + 1, 1_000))
    assert grown < 40

    def all_at_once() -> int:
        with rls.tenant_scope(home.tenant.id):
            return len([bytes(row) for row in Intake.objects.values_list("event", flat=True)])

    assert peak_of(all_at_once) > 80  # the negative control: so many events do not fit into what was allowed
