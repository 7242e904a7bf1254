"""A client that logs in, and a household to act in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # conftest files are loaded before Django is set up
    from rest_framework.test import APIClient

    from kasbah.identity.models import User
    from tests import factories


@pytest.fixture
def as_user(db: None) -> Callable[[User], APIClient]:
    """A client with the session of a user; CSRF is checked as in production."""

    from rest_framework.test import APIClient

    def client(user: User) -> APIClient:
        made = APIClient(enforce_csrf_checks=True)
        made.force_login(user)
        made.get("/api/session/")
        made.credentials(HTTP_X_CSRFTOKEN=made.cookies["csrftoken"].value)
        return made

    return client


@pytest.fixture
def as_key() -> Callable[[str], APIClient]:
    """A client that shows a key."""

    from rest_framework.test import APIClient

    def client(text: str) -> APIClient:
        made = APIClient(enforce_csrf_checks=True)
        made.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
        return made

    return client


@pytest.fixture
def root(as_user: Callable[[User], APIClient]) -> APIClient:
    """The platform's administrator."""
    from tests import factories

    return as_user(factories.user(is_platform_admin=True))


@pytest.fixture
def home(db: None) -> factories.Household:
    """A tenant."""
    from tests import factories

    return factories.household()


@pytest.fixture
def admin(as_user: Callable[[User], APIClient], home: factories.Household) -> APIClient:
    """The tenant's administrator."""
    return as_user(home.admin)


def error(response: Any) -> dict[str, Any]:
    """The error of an answer, once its form is checked."""
    assert set(response.json()) == {"error"}
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found  # type: ignore[no-any-return]
