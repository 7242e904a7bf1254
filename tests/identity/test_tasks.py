"""What housekeeping removes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from kasbah.identity.tasks import expire_sessions


@pytest.mark.django_db
def test_sessions_that_expired_are_removed_and_others_stay() -> None:
    now = timezone.now()
    for key, at in (("old", now - timedelta(seconds=1)), ("new", now + timedelta(hours=1))):
        Session.objects.create(session_key=key, session_data="", expire_date=at)
    expire_sessions()
    assert list(Session.objects.values_list("session_key", flat=True)) == ["new"]
