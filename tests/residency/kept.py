"""Content that is stored, and a retention that runs, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from rest_framework.test import APIClient

from kasbah.audit.models import Content
from kasbah.audit.services import ActorRef
from kasbah.common import rls
from kasbah.identity.models import User
from kasbah.residency.services import retention
from tests import factories

from .documents import allow, document

JOB = ActorRef("system", "retention", "internal")


def policy(home: factories.Household, level: str = "sealed", *, floor: int = 0, ceiling: int = 30) -> None:
    """Put a policy in force for the class `internal`."""
    kept = {"retention": {"internal": {"floor_days": floor, "ceiling_days": ceiling}}} if ceiling else {}
    factories.active_policy(home.tenant, document(allow(), content={"internal": level}, **kept))


def store(home: factories.Household, *, days: float, **fields: Any) -> Content:
    """Content of the class `internal` that was stored `days` ago, with its event."""
    row: Content = factories.content(home.project, days=days, **{"data_class": "internal", **fields})
    return row


def left(row: Content) -> str:
    """What is there of a record: all, opening, or nothing."""
    with rls.tenant_scope(row.tenant_id):
        row.refresh_from_db()
    boxes = [box is not None for box in (row.opening, row.record_key, row.ciphertext)]
    return {"111": "all", "100": "opening", "000": "nothing"}["".join(str(int(there)) for there in boxes)]


def run(home: factories.Household) -> int:
    """Erase what is due in one tenant; answers how many."""
    return retention.erase_due(JOB, [home.tenant])


def client(person: User) -> APIClient:
    """A client with the session of a person."""
    made = APIClient()
    made.force_login(person)
    return made
