"""Reading the ledger of egress."""

from __future__ import annotations

from typing import ClassVar

from rest_framework import serializers

from kasbah.audit.egress.models import EgressAttempt
from kasbah.common.api import ListMixin, StrictSerializer


class EgressAttemptShown(serializers.ModelSerializer[EgressAttempt]):
    """What one process was refused to one destination."""

    class Meta:
        model = EgressAttempt
        fields = ["id", "process", "destination", "count", "first_seen", "last_seen"]


class EgressFilters(StrictSerializer):
    """Query parameters."""

    process = serializers.CharField(required=False, max_length=120)
    destination = serializers.CharField(required=False, max_length=80, help_text="host:port, or name:dns.")


class EgressAttemptViewSet(ListMixin):
    """Connections that a process of the installation was refused, because they are not on its list."""

    queryset = EgressAttempt.objects.all()
    serializer_class = EgressAttemptShown
    filters = EgressFilters
    access: ClassVar = {"list": "worker.read"}
