"""What holds of policy versions against who goes past the services: constraints, grants, digests, locks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, ProgrammingError, connection, transaction
from django.utils import timezone
from psycopg.types.json import Jsonb

from kasbah.common import rls
from kasbah.common.database import Database
from kasbah.common.errors import Unavailable
from kasbah.residency import services
from kasbah.residency.models import BaselinePolicy, Policy, digest_of
from tests import factories
from tests.factories import fresh

from .documents import allow, document
from .test_policy_life import NARROW, NARROWER, WIDE, House, past, refused

FORGED = document(allow("forged", data_classes=["secret"], tags=["*"]))
REVIEWED = "UPDATE residency_policy SET reviewed_by_id = requested_by_id WHERE id = %s"


@pytest.fixture
def house(db: None) -> House:
    return House()


def execute(house: House, statement: str, policy: Policy) -> None:
    """As the application, in a transaction of its own."""
    with rls.tenant_scope(house.tenant.id), connection.cursor() as cursor:
        cursor.execute(statement, [policy.pk])


# The rule of two people, straight by SQL.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("reviewed_by_id = requested_by_id", "policy_reviewed_by_another_than_asked"),
        ("reviewed_by_id = created_by_id, requested_by_id = NULL", "policy_reviewed_by_another_than_wrote"),
        ("state = 'active'", "policy_approved_where_needed"),
        ("state = 'approved'", "policy_approved_where_needed"),
        ("state = 'active', requested_by_id = NULL", "policy_approved_where_needed"),
        ("state = 'active', bootstrap = true", "policy_bootstrap_by_nobody_over_nothing"),
    ],
)
def test_the_database_refuses_what_one_person_alone_would_do(house: House, change: str, constraint: str) -> None:
    asked = house.asked(WIDE)
    with pytest.raises(IntegrityError, match=constraint):
        execute(house, f"UPDATE residency_policy SET {change} WHERE id = %s", asked)  # noqa: S608
    assert house.states() == {1: "requested"}


@pytest.mark.django_db
def test_the_same_holds_of_the_baseline() -> None:
    one = fresh(factories.user(is_platform_admin=True))
    factories.active_policy(None, document())
    asked = services.request_activation(one, services.create_policy(one, None, WIDE))
    for change in ({"reviewed_by": asked.requested_by}, {"state": "active"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            BaselinePolicy.objects.filter(pk=asked.pk).update(**change)


@pytest.mark.django_db(transaction=True)
def test_it_is_the_constraint_that_refuses(house: House, superuser: psycopg.Connection) -> None:
    """The negative control: without it one person does both."""
    asked = house.asked(WIDE)
    with superuser.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.CheckViolation), superuser.transaction():
            superuser.execute(REVIEWED, [asked.pk])
        for name in ("asked", "wrote"):
            superuser.execute(f"ALTER TABLE residency_policy DROP CONSTRAINT policy_reviewed_by_another_than_{name}")
        assert superuser.execute(REVIEWED, [asked.pk]).rowcount == 1


@pytest.mark.django_db
@pytest.mark.parametrize("column", ["document", "digest", "source", "version", "created_by_id", "tenant_id"])
def test_the_application_cannot_change_what_a_version_says(house: House, column: str) -> None:
    draft = services.create_policy(house.ada, house.tenant, WIDE)
    with pytest.raises(ProgrammingError, match="permission denied"):
        execute(house, f"UPDATE residency_policy SET {column} = {column} WHERE id = %s", draft)  # noqa: S608


# Documents that a superuser of the database altered.


def alter(superuser: psycopg.Connection, policy: Any, *, digest: bool = False, table: str = "residency_policy") -> None:
    superuser.execute(f"UPDATE {table} SET document = %s WHERE id = %s", [Jsonb(FORGED), policy.pk])  # noqa: S608
    if digest:
        superuser.execute(f"UPDATE {table} SET digest = %s WHERE id = %s", [digest_of(FORGED), policy.pk])  # noqa: S608


@pytest.mark.django_db(transaction=True)
def test_an_altered_document_is_neither_asked_for_nor_approved_nor_activated(
    house: House, superuser: psycopg.Connection
) -> None:
    asked = house.asked(WIDE)
    alter(superuser, asked)
    refused("document_altered", lambda: factories.approve(house.grace, asked))
    refused("document_altered", lambda: services.request_activation(house.ada, asked))
    factories.approve(house.grace, house.asked(WIDE))
    planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1))
    alter(superuser, planned)
    house.set(planned, activate_at=past(seconds=1))
    assert services.activate_due() == {"sent back": 1}
    assert house.states() == {1: "requested", 2: "active", 3: "requested"}
    refused("document_altered", lambda: factories.approve(house.grace, planned))


@pytest.mark.django_db(transaction=True)
def test_an_approval_is_bound_to_the_digest_too(house: House, superuser: psycopg.Connection) -> None:
    """Document and digest altered together after the request: it is not what was compared any more."""
    asked = house.asked(WIDE)
    alter(superuser, asked, digest=True)
    refused("comparison_stale", lambda: services.approve_policy(house.grace, asked, asked.comparison))


@pytest.mark.django_db(transaction=True)
def test_a_forged_active_version_does_not_make_a_loosening_look_harmless(
    house: House, superuser: psycopg.Connection
) -> None:
    factories.approve(house.grace, house.asked(NARROW))
    with rls.tenant_scope(house.tenant.id):
        active = Policy.objects.get(state="active")
    assert house.asked(NARROWER).state == "active"
    services.roll_back(house.ada, active)
    with rls.tenant_scope(house.tenant.id):
        active = Policy.objects.get(state="active")
    alter(superuser, active)
    asked = house.asked(FORGED)
    assert asked.state == "requested"
    assert asked.findings


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("whose", ["tenant", "baseline"])
@pytest.mark.parametrize("why", ["was altered in the database", "cannot be read by this version"])
async def test_what_cannot_be_trusted_or_read_allows_nothing(
    house: House, database: Database, superuser: psycopg.Connection, whose: str, why: str
) -> None:
    async def load() -> Any:
        async with database.transaction(house.tenant.id) as link:
            return await services.load_policy(link, house.tenant.id)

    def prepare() -> Any:
        policy = factories.active_policy(house.tenant, WIDE)
        return policy if whose == "tenant" else factories.active_policy(None, WIDE)

    policy = await sync_to_async(prepare)()
    assert (await load()).version == 1
    table = "residency_policy" if whose == "tenant" else "residency_baselinepolicy"
    forge = "altered" in why
    given = FORGED if forge else document(allow(colour="red"))
    digest = policy.digest if forge else digest_of(given)
    superuser.execute(
        f"UPDATE {table} SET document = %s, digest = %s WHERE id = %s",  # noqa: S608
        [Jsonb(given), digest, policy.pk],
    )
    with pytest.raises(Unavailable, match=why) as caught:
        await load()
    assert caught.value.status == 503
    with pytest.raises(Unavailable, match=why):
        await sync_to_async(services.explain)(house.tenant, data_class="internal", model="m")


# With real commits.


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each answers, or raises."""
    found: list[Any] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001 - shown by the test
            found.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.django_db(transaction=True)
def test_two_schedulers_activate_once(house: House) -> None:
    factories.active_policy(house.tenant, WIDE)
    planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1))
    house.set(planned, activate_at=past(seconds=1))
    found = at_once(services.activate_due, services.activate_due, services.activate_due)
    assert sum(done["activated"] for done in found) == 1
    assert [kind for kind, _ in house.events()].count("policy.activated") == 2
    assert house.states() == {1: "superseded", 2: "active"}


@pytest.mark.django_db(transaction=True)
def test_of_two_approvals_at_once_one_holds(house: House) -> None:
    """The second was compared with a version that the first has superseded."""
    factories.active_policy(house.tenant, NARROWER)
    first, second = house.asked(NARROW), house.asked(WIDE)
    found = at_once(lambda: factories.approve(house.grace, first), lambda: factories.approve(house.grace, second))
    codes = sorted(getattr(one, "code", "approved") for one in found)
    assert codes == ["approved", "comparison_stale"]
    assert sorted(house.states().values()) == ["active", "requested", "superseded"]
