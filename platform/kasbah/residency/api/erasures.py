"""Erasure on demand, over the API."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.audit.asked import AskedState
from kasbah.audit.models import Erasure, ErasureBasis
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.times import DayField, TimeField
from kasbah.residency.services import erasures
from kasbah.residency.services.erasures import Wish


class ErasureShown(serializers.ModelSerializer[Erasure]):
    """A request to erase. Persons are ids of users; `event` tells what was destroyed, once it is approved."""

    reason = serializers.CharField(source="words")
    event = serializers.UUIDField(source="event_id", allow_null=True)

    class Meta:
        model = Erasure
        fields = [
            "id",
            "state",
            "kind",
            "basis",
            "month",
            "request_id",
            "person",
            "since",
            "until",
            "records",
            "digest",
            "reason",
            "requested_by",
            "requested_at",
            "expires_at",
            "reviewed_by",
            "reviewed_at",
            "rejection",
            "event",
        ]


class ErasureBody(StrictBody):
    """What is to go: one of `month`, `request_id` and `person`."""

    basis = serializers.ChoiceField(ErasureBasis.choices, help_text="own_decision: not before the policy's floor.")
    reason = serializers.CharField(max_length=500)
    month = DayField(required=False, help_text="Its first day: all that was stored in it, by its key.")
    request_id = serializers.CharField(required=False, max_length=64, help_text="req_...")
    person = serializers.UUIDField(required=False, help_text="A user (all that his keys asked for), or one API key.")
    since = TimeField(required=False, help_text="Of a person: content stored from then on.")
    until = TimeField(required=False, help_text="Of a person: content stored before then; else now.")


class ErasureApproval(StrictBody):
    """What was looked at."""

    digest = serializers.CharField(max_length=64, help_text="As the request shows it.")


class ErasureRejection(StrictBody):
    """Why not."""

    reason = serializers.CharField(max_length=500)


class ErasureFilters(StrictSerializer):
    """Query parameters."""

    state = serializers.ChoiceField(AskedState.choices, required=False)


class ErasureViewSet(ListMixin, RetrieveMixin):
    """The tenant's erasures on demand; those that are done stay on the list."""

    queryset = Erasure.objects.all()
    serializer_class = ErasureShown
    filters = ErasureFilters
    access: ClassVar = {
        "list": "erasure.read",
        "retrieve": "erasure.read",
        "create": "erasure.manage",
        "approve": "erasure.approve",
        "reject": "erasure.approve",
        "withdraw": "erasure.manage",
    }

    @extend_schema(request=ErasureBody, responses={201: ErasureShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Ask that content be erased. Nothing is touched before a second person agrees."""
        given: dict[str, Any] = self.body(ErasureBody)
        basis, reason = given.pop("basis"), given.pop("reason")
        asked = erasures.request_erasure(self.actor, self.tenant, Wish(**given), basis=basis, reason=reason)
        return self.shown(asked, 201)

    @extend_schema(request=ErasureApproval, responses=ErasureShown)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: UUID, tenant: str) -> Response:
        """Agree, as the second person. The keys are destroyed by that, and nothing brings the content back."""
        found = self.find()
        return self.shown(erasures.approve_erasure(self.actor, found, self.body(ErasureApproval)["digest"]))

    @extend_schema(request=ErasureRejection, responses=ErasureShown)
    @action(detail=True, methods=["post"])
    def reject(self, request: Request, pk: UUID, tenant: str) -> Response:
        """Refuse, as the second person."""
        found = self.find()
        return self.shown(erasures.reject_erasure(self.actor, found, self.body(ErasureRejection)["reason"]))

    @extend_schema(request=None, responses=ErasureShown)
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, pk: UUID, tenant: str) -> Response:
        """Take it back."""
        return self.shown(erasures.withdraw_erasure(self.actor, self.find()))
