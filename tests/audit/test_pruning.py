"""Pruning: by a policy of two persons alone, never too young, held or kept; and it is told from deletion."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection

from kasbah.audit.content import erasure
from kasbah.audit.log import pruning as batches
from kasbah.audit.log import upkeep
from kasbah.audit.log.models import Log, Pruned, PruningPolicy
from kasbah.audit.models import Intake
from kasbah.audit.services import Event, EventType, record
from kasbah.common import rls
from kasbah.common.errors import Forbidden, Invalid
from kasbah.common.ids import uuid7
from kasbah.residency.services import erasures, holds, pruning
from kasbah.residency.services.holds import Reach
from kasbah.residency.services.simulation import Period, simulate_policy
from kasbah.residency.tasks import prune
from tests import factories
from tests.audit.logs import WHO, run, unguarded, verified
from tests.residency.documents import allow, document

pytestmark = pytest.mark.django_db(transaction=True)
OLD = UUID("017d0000-0000-7000-8000-000000000000")  # of November 2021
OLD_DAY = datetime.fromtimestamp((OLD.int >> 80) // 1000, UTC)


@pytest.fixture
def home(transactional_db: None) -> factories.Household:
    return factories.household()


def persons() -> list[Any]:
    return [factories.fresh(factories.user(is_platform_admin=True)) for _ in range(2)]


def in_force(home: factories.Household) -> PruningPolicy:
    one, two = persons()
    policy = factories.approve(two, pruning.request_pruning(one, home.tenant, 183, reason="R"))
    run()
    return policy


def old(number: int) -> UUID:
    return UUID(int=OLD.int + number)


def fill(home: factories.Household, superuser: psycopg.Connection, *, days: int = 200) -> list[UUID]:
    """Six old events, the third of management; signed for `days` ago."""
    made = []
    with rls.tenant_scope(home.tenant.id):
        for number in range(6):
            kind = EventType.AUDIT_READ if number == 2 else EventType.INFERENCE_INTENT
            fields: Any = {"type": kind, "tenant_id": home.tenant.id, "actor": WHO, "id": old(number)}
            made.append(record(Event(request_id=f"req_{number}", **fields)).id)
    run()
    aged(superuser, days)
    return made


def aged(superuser: psycopg.Connection, days: int) -> None:
    superuser.execute("ALTER TABLE audit_checkpoint DISABLE TRIGGER audit_checkpoint_insert_only")
    superuser.execute("UPDATE audit_checkpoint SET created_at = now() - make_interval(days => %s)", [days])
    superuser.execute("ALTER TABLE audit_checkpoint ENABLE ALWAYS TRIGGER audit_checkpoint_insert_only")


def there(home: factories.Household) -> set[UUID]:
    with rls.tenant_scope(home.tenant.id):
        return set(Intake.objects.filter(id__lt=old(100)).values_list("id", flat=True))


def problems(home: factories.Household) -> list[str]:
    with rls.platform_scope():
        log = Log.objects.get(tenant_id=home.tenant.id)
    return list(upkeep.problems(log))


def test_what_a_policy_lets_go_goes_and_the_log_says_so(
    home: factories.Household, superuser: psycopg.Connection
) -> None:
    made = fill(home, superuser)
    policy = in_force(home)
    assert pruning.prune_due(WHO) == 5
    assert there(home) == {made[2]}
    with rls.tenant_scope(home.tenant.id):
        assert [(row.start, row.end) for row in Pruned.objects.order_by("start")] == [(0, 2), (3, 6)]
    event: Any = factories.events_of(home.tenant.id)[-1]
    assert (event["type"], event["details"]["ranges"]) == ("log.pruned", ["0-2", "3-6"])
    assert event["details"]["policy_event"] == str(policy.event_id)
    run()
    assert problems(home) == []
    assert pruning.prune_due(WHO) == 0


def test_deleted_is_told_from_pruned(home: factories.Household, superuser: psycopg.Connection) -> None:
    made = fill(home, superuser)
    in_force(home)
    pruning.prune_due(WHO)
    run()
    with unguarded(superuser) as execute:
        execute("DELETE FROM audit_intake WHERE id = %s", [made[2]])
    (problem,) = problems(home)
    assert f"{made[2]} (index 2) is gone" in problem


NOTE = """
INSERT INTO audit_pruned (id, tenant_id, log_id, start, "end", event_id)
SELECT gen_random_uuid(), tenant_id, log_id, index, index + 1, %s FROM audit_leaf WHERE event_id = %s
"""


def test_a_range_that_no_event_tells_of_hides_nothing(home: factories.Household, superuser: psycopg.Connection) -> None:
    made = fill(home, superuser)
    with unguarded(superuser) as execute:
        execute(NOTE, [uuid7(), made[2]])
        execute("DELETE FROM audit_intake WHERE id = %s", [made[2]])
    assert [f"{made[2]} (index 2) is gone" in problem for problem in problems(home)] == [True]


@pytest.mark.parametrize("kept", ["young", "hold", "hold of one", "content", "no policy", "ended"])
def test_what_stays(home: factories.Household, superuser: psycopg.Connection, kept: str) -> None:
    made = fill(home, superuser, days=182 if kept == "young" else 200)
    policy = None if kept == "no policy" else in_force(home)
    if kept.startswith("hold"):
        reach = Reach(request_id="req_3") if kept == "hold of one" else Reach()
        holds.place_hold(factories.SYSTEM, home.tenant, reach, reason="R", reference="1")
    elif kept == "content":
        factories.content(home.project, request_id="req_3")
    elif kept == "ended" and policy is not None:
        pruning.end_pruning(persons()[0], policy)
    pruning.prune_due(WHO)
    assert there(home) == ({made[2], made[3]} if kept in ("hold of one", "content") else set(made))


def test_the_function_checks_by_itself(home: factories.Household, superuser: psycopg.Connection) -> None:
    """Whatever the application asks for: without the event, of management, or too many."""
    fill(home, superuser)
    in_force(home)
    with rls.tenant_scope(home.tenant.id):
        log = Log.objects.get(tenant_id=home.tenant.id).pk

    def attempt(start: int, end: int, *, told: bool = True, said: int = 0) -> None:
        with rls.tenant_scope(home.tenant.id), connection.cursor() as cursor:
            details = {"ranges": [f"{start}-{said or end}"]}
            event = Event(type=EventType.LOG_PRUNED, tenant_id=home.tenant.id, actor=WHO, details=details)
            cursor.execute(batches.PRUNE, [log, record(event).id if told else uuid7(), [start], [end]])

    untold, lied = {"start": 0, "end": 1, "told": False}, {"start": 0, "end": 2, "said": 1}
    for asked in (untold, lied, {"start": 1, "end": 3}, {"start": 5, "end": 9}):
        with pytest.raises(DatabaseError, match=r"audit_prune|may not go"):
            attempt(**asked)  # type: ignore[arg-type]
    assert len(there(home)) == 6
    attempt(0, 2)  # the control: what may go goes
    assert len(there(home)) == 4


def test_what_was_changed_is_not_pruned_away(
    home: factories.Household, superuser: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    made = fill(home, superuser)
    in_force(home)
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = 'x' WHERE id = %s", [made[0]])
    pruning.prune_due(WHO)  # one tenant's fault ends nobody else's pruning
    assert "as it was signed" in caplog.text
    assert len(there(home)) == 6


@pytest.mark.parametrize("who", ["application", "superuser"])
def test_nobody_deletes_past_the_function(
    home: factories.Household, superuser: psycopg.Connection, app_url: str, who: str
) -> None:
    made = fill(home, superuser)
    in_force(home)
    with psycopg.connect(app_url, autocommit=True) as application:
        session = application if who == "application" else superuser
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("DELETE FROM audit_intake WHERE id = %s", [made[0]])
    assert len(there(home)) == 6


def by_hand(
    superuser: psycopg.Connection, home: factories.Household, noted: UUID, deleted: UUID, *, told: bool
) -> None:
    """What the function does, done by a superuser himself, the triggers being on."""
    event = Event(type=EventType.LOG_PRUNED, tenant_id=home.tenant.id, actor=WHO)
    with superuser.transaction():
        if told:
            superuser.execute(
                "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, %s, '', %s)",
                [event.id, home.tenant.id, event.type.value, event.encoded],
            )
        superuser.execute(NOTE, [event.id, noted])
        superuser.execute("DELETE FROM audit_intake WHERE id = %s", [deleted])


def test_a_superuser_by_hand_deletes_only_what_may_go(home: factories.Household, superuser: psycopg.Connection) -> None:
    made = fill(home, superuser)
    in_force(home)
    for noted, deleted, told in ((0, 0, False), (0, 1, True), (2, 2, True)):  # untold, not noted, of management
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not go"):
            by_hand(superuser, home, made[noted], made[deleted], told=told)
    holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not go"):
        by_hand(superuser, home, made[0], made[0], told=True)
    assert len(there(home)) == 6


def test_an_approval_counts_once_it_is_signed(home: factories.Household, superuser: psycopg.Connection) -> None:
    fill(home, superuser)
    one, two = persons()
    factories.approve(two, pruning.request_pruning(one, home.tenant, 183, reason="R"))
    assert pruning.prune_due(WHO) == 0
    run()
    assert pruning.prune_due(WHO) == 5


def test_nothing_is_pruned_while_somebody_reads(
    home: factories.Household, superuser: psycopg.Connection, app_url: str
) -> None:
    fill(home, superuser)
    in_force(home)
    with psycopg.connect(app_url) as reader:
        reader.execute(
            "SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", [f"kasbah:log-read:{home.tenant.id}"]
        )
        assert pruning.prune_due(WHO) == 0
        assert problems(home) == []  # readers do not wait for each other
    assert pruning.prune_due(WHO) == 5


def test_the_simulator_says_what_it_misses(home: factories.Household, superuser: psycopg.Connection) -> None:
    fill(home, superuser)
    in_force(home)
    pruning.prune_due(WHO)
    found = [
        simulate_policy(factories.SYSTEM, home.tenant, document(allow()), Period(since, since + timedelta(days=1)))
        for since in (OLD_DAY, OLD_DAY + timedelta(days=1))
    ]
    assert [one.pruned for one in found] == [5, 0]
    assert found[0].summary.endswith(
        "5 events of the period were pruned from the log, and their requests are not counted"
    )
    assert "pruned" not in found[1].summary


@pytest.mark.parametrize("who", ["hold", "approval", "retention", "pruning"])
def test_who_erases_and_who_holds_wait_for_each_other(home: factories.Household, app_url: str, who: str) -> None:
    """A hold that is placed in the same instant is either seen or comes after."""
    row = factories.content(home.project)
    policy = in_force(home)
    one, two = persons()
    wish = erasures.Wish(request_id=row.request_id)
    asked = erasures.request_erasure(one, home.tenant, wish, basis="authority", reason="R")
    rule = erasure.Rule(
        tenant_id=home.tenant.id,
        data_class=row.data_class,
        level="sealed",
        floor_days=0,
        ceiling_days=0,
        policy_id="p",
        policy_version=1,
    )
    does: dict[str, Callable[[], object]] = {
        "hold": lambda: holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1"),
        "approval": lambda: factories.approve(two, asked),
        "retention": lambda: erasure.erase_batch(rule, WHO),
        "pruning": lambda: batches.prune_batch(policy, WHO),
    }

    def impatient() -> None:
        with rls.tenant_scope(home.tenant.id), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '50ms'")
            does[who]()

    with psycopg.connect(app_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"kasbah:kept:{home.tenant.id}"])
        with pytest.raises(OperationalError, match="lock timeout"):
            impatient()
    impatient()  # the control: nobody else is at it


def exported(home: factories.Household, folder: Path) -> str:
    path = folder / f"{uuid7()}.zip"
    call_command("auditexport", "--tenant", home.tenant.slug, "--output", str(path))
    return verified(path, home.tenant.id)


def test_pruned_and_deleted_from_end_to_end(
    home: factories.Household, superuser: psycopg.Connection, tmp_path: Path
) -> None:
    """What the housekeeping removes is told by check and export; the same rows removed by hand fail both by name."""
    made = fill(home, superuser)
    in_force(home)
    assert "pruned" not in exported(home, tmp_path)
    prune()
    assert problems(home) == []  # the event that tells of it has no place yet
    run()
    assert problems(home) == []
    told = factories.events_of(home.tenant.id)[-1]["id"]
    said = exported(home, tmp_path)
    assert f"pruned     5 more were removed by a policy, as the log itself says ({told})" in said
    assert said.endswith("holds\n")
    with unguarded(superuser) as execute:
        execute("DELETE FROM audit_intake WHERE id = %s", [made[2]])  # one more than the log tells of
    assert [f"{made[2]} (index 2) is gone" in problem for problem in problems(home)] == [True]
    with pytest.raises(CommandError, match="not those that were signed"):
        exported(home, tmp_path)


@pytest.mark.parametrize("noted", [False, True])
def test_the_same_events_removed_by_hand_are_missing(
    home: factories.Household, superuser: psycopg.Connection, tmp_path: Path, noted: bool
) -> None:
    """By a superuser who switches the triggers off; also if he notes them as pruned, by an event that is another."""
    made = fill(home, superuser)
    in_force(home)
    other = factories.events_of(home.tenant.id)[-1]["id"]
    gone = [ident for ident in made if ident != made[2]]
    with unguarded(superuser) as execute:
        for ident in gone if noted else ():
            execute(NOTE, [other, ident])
        execute("DELETE FROM audit_intake WHERE id = ANY(%s)", [gone])
    found = problems(home)
    assert len(found) == 5
    assert all(f"{ident} " in problem and "is gone" in problem for ident, problem in zip(gone, found, strict=True))
    if not noted:
        with pytest.raises(CommandError, match="not those that were signed"):
            exported(home, tmp_path)
    else:
        assert "event_missing" in exported(home, tmp_path)


def test_it_takes_two_persons_and_six_months(home: factories.Household) -> None:
    one, _ = persons()
    with pytest.raises(Invalid, match="183"):
        pruning.request_pruning(one, home.tenant, 182, reason="R")
    with pytest.raises(Forbidden, match="second person"):
        factories.approve(one, pruning.request_pruning(one, home.tenant, 183, reason="R"))
    with pytest.raises(Forbidden, match="two persons"):
        pruning.request_pruning(factories.SYSTEM, home.tenant, 183, reason="R")
    first, second = in_force(home), in_force(home)
    with rls.tenant_scope(home.tenant.id):
        assert PruningPolicy.objects.get(state="approved").pk == second.pk
        assert PruningPolicy.objects.get(pk=first.pk).state == "ended"


def test_batches_are_bounded(
    home: factories.Household, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 2)
    monkeypatch.setattr(batches, "RANGES", 1)
    made = fill(home, superuser)
    in_force(home)
    assert pruning.prune_due(WHO) == 5
    assert there(home) == {made[2]}
    run()
    assert problems(home) == []
