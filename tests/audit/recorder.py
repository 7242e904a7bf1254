"""Calls entrances of management, and notes which types of events each left."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from django.core.management import call_command
from rest_framework.test import APIClient

from kasbah.audit.classified import AUDITED
from kasbah.audit.models import Intake
from kasbah.common import rls
from kasbah.identity.models import User
from tests import factories


class Recorder:
    """Calls entrances and notes which types of events each left."""

    def __init__(self) -> None:
        self.left: dict[str, set[str]] = {}

    def note(self, entrance: str, call: Callable[[], Any]) -> Any:
        before = self.events()
        try:
            return call()
        finally:
            self._compare(entrance, before)

    def _compare(self, entrance: str, before: dict[Any, str]) -> None:
        new = [kind for ident, kind in self.events().items() if ident not in before]
        assert new, f"{entrance} left no event"
        assert set(new) <= {kind.value for kind in AUDITED[entrance]}, f"{entrance} left {new}"
        self.left.setdefault(entrance, set()).update(new)

    @staticmethod
    def events() -> dict[Any, str]:
        with rls.platform_scope():
            return dict(Intake.objects.values_list("id", "type"))

    def assert_all(self, kind: Callable[[str], bool]) -> None:
        """Every entrance of this kind was called, and left every type that it is said to leave."""
        wanted = {name: {event.value for event in events} for name, events in AUDITED.items() if kind(name)}
        assert self.left == wanted


class Http(Recorder):
    """Calls the management API."""

    def __init__(self, home: factories.Household) -> None:
        super().__init__()
        self.home = home

    def call(self, who: APIClient, entrance: str, body: object = None, pk: object = "", status: int = 200) -> Any:
        method, pattern = entrance.split()
        address = (
            pattern.replace("<slug:tenant>", self.home.tenant.slug)
            .replace("<uuid:pk>", str(pk))
            .replace("<str:pk>", str(pk))
        )
        response = self.note(entrance, lambda: getattr(who, method.lower())(address, body, format="json"))
        assert response.status_code == status, response.content
        return response.json() if response.content else None


def client(user: User) -> APIClient:
    made = APIClient()
    made.force_login(user)
    return made


class Commands(Recorder):
    """Calls commands."""

    def run(self, name: str, *arguments: str) -> Any:
        out = io.StringIO()
        self.note(f"command {name}", lambda: call_command(name, *arguments, "--json", stdout=out, stderr=io.StringIO()))
        return json.loads(out.getvalue())

    @staticmethod
    def show(name: str, *arguments: str) -> Any:
        """What a command shows that changes nothing here."""
        out = io.StringIO()
        call_command(name, *arguments, "--json", stdout=out, stderr=io.StringIO())
        return json.loads(out.getvalue())
