"""Who may see every tenant at once: each module that speaks for the platform stands here with its reason.

Look at a new one twice: inside `rls.platform_scope()` the database keeps no tenants apart.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from django.db import DatabaseError, connection

import kasbah
from kasbah.common import rls
from kasbah.identity.models import Project, Tenant
from tests import factories

ROOT = Path(str(kasbah.__file__)).parent

PLATFORM = {
    "audit/api.py": "events without a tenant, for platform administrators",
    "audit/forwarding/api.py": "destinations of the audit log, for platform administrators",
    "audit/forwarding/sending.py": "sends the events of every log",
    "audit/services/forwarding.py": "destinations may be of every log",
    "audit/log/api.py": "the system log, for platform administrators",
    "audit/log/witnessing.py": "shows witnesses the checkpoints of every log",
    "audit/log/upkeep.py": "checks every log",
    "audit/management/commands/auditlog.py": "shows every log",
    "audit/log/cluster.py": "which cluster the logs of all tenants are in",
    "audit/log/presence.py": "the sequencer belongs to no tenant",
    "audit/log/rotation.py": "hands every log over to the next key",
    "audit/log/sequencer.py": "gives the events of all tenants their places",
    "audit/services/egress.py": "processes belong to no tenant",
    "audit/services/intake.py": "refusals, which may belong to no tenant",
    "config/dossiers.py": "proves in a dossier who brought in and approved the model, by the system log",
    "config/noted.py": "settings belong to no tenant",
    "common/database.py": "defines it for the asynchronous side",
    "common/rls.py": "defines it",
    "config/demo.py": "looks whether the demonstration's tenant exists",
    "gateway/health.py": "asks whether the database answers",
    "gateway/ledger.py": "writes what requests of many tenants leave, together; reads nothing but what it settles",
    "identity/management/commands/forwarders.py": "shows destinations, which may be of every log",
    "identity/management/commands/auditexport.py": "exports the system log, which belongs to no tenant",
    "identity/management/commands/tenants.py": "lists all tenants",
    "identity/management/commands/users.py": "lists the tenants of each person",
    "identity/commands.py": "finds a tenant by its name for a command",
    "identity/services/invitations.py": "a person's invitations are of many tenants; ends those that are over",
    "identity/services/issuing.py": "a person's keys are of many tenants",
    "identity/services/standing.py": "accounts belong to no tenant",
    "identity/services/permissions.py": "looks up one person's role",
    "identity/services/principals.py": "finds a key by its digest, before its tenant is known; notes uses",
    "identity/services/tenants.py": "creates and finds tenants; lists those of one actor",
    "identity/services/users.py": "people belong to no tenant",
    "registry/services/versions.py": "models belong to no tenant",
    "residency/services/asked.py": "ends requests that nobody answered, of many tenants",
    "residency/services/health.py": "sites belong to no tenant",
    "residency/migrations/0005_policy_guards.py": "gives the versions of all tenants their digests, once",
    "residency/services/activation.py": "activates what is due, of many tenants",
    "residency/services/shelves.py": "the baseline belongs to no tenant",
    "residency/services/pruning.py": "prunes the logs of many tenants, one after the other",
    "residency/services/retention.py": "lists the tenants whose content is to be looked at, one after the other",
    "residency/services/signing_keys.py": "the control plane's keys belong to no tenant",
    "residency/services/site_keys.py": "keys of sites belong to no tenant",
    "residency/services/sites.py": "sites belong to no tenant",
    "serving/dispatch/again.py": "moves lost jobs of many tenants",
    "serving/dispatch/dispatcher.py": "reads sites and workers",
    "serving/housekeeping/assignments.py": "workers serve many tenants",
    "serving/housekeeping/enrol.py": "workers belong to no tenant",
    "serving/housekeeping/entries.py": "workers belong to no tenant",
    "serving/housekeeping/erased_frames.py": "what was erased, of many tenants",
    "serving/housekeeping/identities.py": "workers belong to no tenant",
    "serving/housekeeping/offering.py": "offers jobs of many tenants again",
    "serving/housekeeping/reconcile.py": "workers belong to no tenant",
    "serving/housekeeping/refusals.py": "finds the job that a worker speaks of, before its tenant is known",
    "serving/housekeeping/reports.py": "workers belong to no tenant",
    "serving/housekeeping/said.py": "looks up what is kept of requests of many tenants",
    "serving/housekeeping/sites.py": "sites belong to no tenant",
    "serving/housekeeping/sweep.py": "carries on jobs of many tenants",
    "serving/housekeeping/troubles.py": "workers belong to no tenant",
    "serving/services/background.py": "commits jobs of many tenants together",
    "serving/services/deployments.py": "deployments belong to no tenant",
    "serving/api/matrix.py": "the matrices of all tenants, for platform administrators",
    "serving/services/impact.py": "which tenants a site or worker would leave without, for platform administrators",
    "serving/services/offering.py": "workers belong to no tenant",
    "serving/services/keys.py": "keys and workers belong to no tenant; asks for the oldest job sealed for a key",
    "serving/services/receipts.py": "finds a request's tenant, then asks whether the caller may know",
    "serving/services/workers.py": "workers belong to no tenant",
    "serving/settlement.py": "ends jobs of many tenants",
    "serving/tasks.py": "removes expired rows of every tenant",
}


def speaks_for_platform(source: str) -> bool:
    """Whether the code enters the platform's scope, by any of its names."""
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "attr", getattr(node, "id", ""))
        if name in {"platform_scope", "SET_PLATFORM"}:
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "transaction" and node.args:
            tenant = node.args[0]
            if isinstance(tenant, ast.Constant) and tenant.value is None:
                return True
    return False


def test_each_module_that_sees_every_tenant_has_a_reason() -> None:
    found = {
        file.relative_to(ROOT).as_posix()
        for file in ROOT.rglob("*.py")
        if speaks_for_platform(file.read_text(encoding="utf-8"))
    }
    assert found - PLATFORM.keys() == set(), "may these see every tenant? Then say why above"
    assert PLATFORM.keys() - found == set(), "these no longer do; remove them"


@pytest.mark.parametrize(
    "source",
    [
        "with rls.platform_scope(): pass",
        "cursor.execute(SET_PLATFORM)",
        "async def f():\n async with db.transaction(None): pass",
    ],
)
def test_the_search_finds_each_way(source: str) -> None:
    assert speaks_for_platform(source)
    assert not speaks_for_platform("async def f():\n async with db.transaction(tenant): pass")


def setting() -> tuple[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('app.tenant', true), current_setting('app.platform', true)")
        row = cursor.fetchone()
    return row[0] or "", row[1] or ""


@pytest.mark.django_db(transaction=True)
def test_scopes_nest_and_end() -> None:
    one, two = factories.household(), factories.household()
    assert setting() == ("", "")
    with rls.tenant_scope(one.tenant.id):
        with rls.platform_scope():
            assert setting() == ("", "on")
            assert Tenant.objects.count() == 2
            with rls.tenant_scope(two.tenant.id):
                assert setting() == (str(two.tenant.id), "")
                assert Project.objects.get() == two.project
            assert setting() == ("", "on")
        assert setting() == (str(one.tenant.id), "")
        assert Project.objects.get() == one.project
    assert setting() == ("", "")
    assert Project.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_a_scope_left_by_an_error_is_left() -> None:
    one, two = factories.household(), factories.household()

    def fail() -> None:
        with rls.tenant_scope(two.tenant.id), connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    with rls.tenant_scope(one.tenant.id):
        with pytest.raises(DatabaseError):
            fail()
        assert setting() == (str(one.tenant.id), "")
        assert Project.objects.get() == one.project
    with pytest.raises(DatabaseError):
        fail()
    assert setting() == ("", "")
