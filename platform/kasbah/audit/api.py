"""Reading the audit log. Each read is itself an event, in the same transaction as the read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.db import models
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.audit import services
from kasbah.audit.log.merkle import leaf_hash
from kasbah.audit.models import Intake
from kasbah.common import requestid, rls
from kasbah.common.api import ListMixin, RetrieveMixin, StrictSerializer


class EventShown(serializers.ModelSerializer[Intake]):
    """One event, and the hash that the log's tree has for it."""

    event = serializers.SerializerMethodField(help_text="Its fields; empty where its bytes were altered.")
    leaf_hash = serializers.SerializerMethodField(help_text="SHA-256 over 0x00 and the exact bytes (RFC 6962), hex.")

    class Meta:
        model = Intake
        fields = ["id", "type", "request_id", "event", "leaf_hash"]

    @extend_schema_field(serializers.DictField())
    def get_event(self, row: Intake) -> dict[str, Any]:
        """The event's fields; none where its bytes are no event any more: `auditlog check` and exports name that."""
        try:
            value = json.loads(bytes(row.event))
            json.dumps(value, ensure_ascii=False).encode()  # half of a character, which no answer could hold
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def get_leaf_hash(self, row: Intake) -> str:
        """Its leaf."""
        return leaf_hash(bytes(row.event)).hex()


class EventFilters(StrictSerializer):
    """Query parameters."""

    type = serializers.CharField(required=False, max_length=64, help_text="subject.action, such as key.created.")
    request_id = serializers.CharField(required=False, max_length=64)


class EventViewSet(ListMixin, RetrieveMixin):
    """The tenant's audit events."""

    queryset = Intake.objects.all()
    serializer_class = EventShown
    filters = EventFilters
    access: ClassVar = {"list": "audit.read", "retrieve": "audit.read"}

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One page of events; the read is recorded."""
        response = super().list(request, *args, **kwargs)
        shown = [item["id"] for item in response.data["data"]]
        self._record(f"{shown[0]}..{shown[-1]}" if shown else "none", len(shown))
        return response

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One event; the read is recorded."""
        response = super().retrieve(request, *args, **kwargs)
        self._record(response.data["id"], 1)
        return response

    def _record(self, what: str, count: int) -> None:
        services.record(
            services.Event(
                type=services.EventType.AUDIT_READ,
                tenant_id=None if self.tenant is None else self.tenant.id,
                actor=self.actor.ref,
                resource=services.Resource("audit_event", what),
                request_id=requestid.current(),
                details={"events": count},
            )
        )


class SystemEventViewSet(EventViewSet):
    """Events of the installation, which belong to no tenant."""

    def rows(self) -> models.QuerySet[Intake]:
        """Those without a tenant."""
        return Intake.objects.filter(tenant_id=None)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Rows without a tenant are the platform's alone."""
        with rls.platform_scope():
            yield
