"""The content of a person is erased although the event of another's was altered; nobody's content is taken for his."""

from __future__ import annotations

from typing import Any

import pytest

from kasbah.audit.content import demand
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls
from kasbah.common.errors import Conflict
from kasbah.residency.services import erasures
from kasbah.residency.services.erasures import Wish
from tests import factories
from tests.audit.logs import run, unguarded
from tests.factories import fresh

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("altered", [b"[", b"\xff", b'{"actor":{"id":"somebody"}}'])
def test_an_altered_event_is_named_and_the_way_out_leads_to_the_erasure(superuser: Any, altered: bytes) -> None:
    home, second = factories.household(), factories.user()
    factories.membership(home.tenant, second)
    mine = factories.content(home.project, actor=ActorRef("user", str(home.admin.id), "session"))
    other = factories.content(home.project)
    run()
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = %s WHERE id = %s", [altered, other.event_id])

    def ask(**wish: Any) -> Any:
        return erasures.request_erasure(fresh(home.admin), home.tenant, Wish(**wish), basis="authority", reason="R")

    with pytest.raises(Conflict, match=f"request {other.request_id} was altered") as refused:
        ask(person=home.admin.id)
    assert refused.value.code == "log_altered"
    factories.approve(fresh(second), ask(request_id=other.request_id))  # the way out that it names
    assert ask(person=home.admin.id).records == 1
    with rls.tenant_scope(home.tenant.id):
        target = demand.Target(tenant_id=home.tenant.id, actors=(str(home.admin.id),))
        assert [hit.id for hit in demand.find(target)] == [mine.id]
        assert demand.find(demand.Target(tenant_id=home.tenant.id, actors=("somebody",))) == []


def test_the_control_without_the_guard_an_altered_event_says_whose_content_it_was(
    superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = factories.household()
    other = factories.content(home.project)
    run()
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = %s WHERE id = %s", [b'{"actor":{"id":"somebody"}}', other.event_id])
    monkeypatch.setattr(demand, "NOBODYS", "SELECT 1 WHERE %s::text IS NULL")
    monkeypatch.setattr(demand, "FIND", demand.FIND.replace(demand.SIGNED, "true"))
    with rls.tenant_scope(home.tenant.id):
        found = demand.find(demand.Target(tenant_id=home.tenant.id, actors=("somebody",)))
    assert [hit.id for hit in found] == [other.id]
