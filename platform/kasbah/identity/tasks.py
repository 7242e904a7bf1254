"""Housekeeping of identities, as Celery tasks."""

from __future__ import annotations

from celery import shared_task
from django.contrib.sessions.models import Session
from django.utils import timezone

from kasbah.identity.services import invitations


@shared_task(name="identity.expire_invitations")
def expire_invitations() -> None:
    """End the invitations that nobody accepted in time, and those of who may no longer invite. Every hour."""
    invitations.expire_due()


@shared_task(name="identity.expire_sessions")
def expire_sessions() -> None:
    """Remove sessions that have expired; nobody could use them any more. Every hour."""
    Session.objects.filter(expire_date__lt=timezone.now()).delete()
