"""Pruning policies, over the API."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.audit.asked import AskedState
from kasbah.audit.log.models import LEAST_DAYS
from kasbah.audit.models import PruningPolicy
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.residency.services import pruning


class PruningPolicyShown(serializers.ModelSerializer[PruningPolicy]):
    """How long the bytes of inference events are kept. Persons are ids of users; `event`: of the approval."""

    reason = serializers.CharField(source="words")
    event = serializers.UUIDField(source="event_id", allow_null=True)
    digest = serializers.SerializerMethodField(help_text="What an approval is bound to.")

    class Meta:
        model = PruningPolicy
        fields = [
            "id",
            "state",
            "keep_days",
            "reason",
            "requested_by",
            "requested_at",
            "expires_at",
            "reviewed_by",
            "reviewed_at",
            "rejection",
            "event",
            "digest",
        ]

    def get_digest(self, policy: PruningPolicy) -> str:
        """Of what the second person looks at."""
        return pruning.seen_of(policy)


class PruningBody(StrictBody):
    """For how long events stay."""

    keep_days = serializers.IntegerField(min_value=LEAST_DAYS, max_value=pruning.MOST_DAYS)
    reason = serializers.CharField(max_length=500)


class PruningApproval(StrictBody):
    """What was looked at."""

    digest = serializers.CharField(max_length=64, help_text="As the policy shows it.")


class PruningRejection(StrictBody):
    """Why not."""

    reason = serializers.CharField(max_length=500)


class PruningFilters(StrictSerializer):
    """Query parameters."""

    state = serializers.ChoiceField(AskedState.choices, required=False)


class PruningPolicyViewSet(ListMixin, RetrieveMixin):
    """The tenant's pruning policies; at most one is `approved`."""

    queryset = PruningPolicy.objects.all()
    serializer_class = PruningPolicyShown
    filters = PruningFilters
    access: ClassVar = {
        "list": "erasure.read",
        "retrieve": "erasure.read",
        "create": "erasure.manage",
        "approve": "erasure.approve",
        "reject": "erasure.approve",
        "end": "erasure.manage",
    }

    @extend_schema(request=PruningBody, responses={201: PruningPolicyShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Ask for one. Nothing is pruned before a second person agrees."""
        given: dict[str, Any] = self.body(PruningBody)
        return self.shown(
            pruning.request_pruning(self.actor, self.tenant, given["keep_days"], reason=given["reason"]), 201
        )

    @extend_schema(request=PruningApproval, responses=PruningPolicyShown)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: UUID, tenant: str) -> Response:
        """Agree, as the second person; it takes the place of the one in force."""
        return self.shown(pruning.approve_pruning(self.actor, self.find(), self.body(PruningApproval)["digest"]))

    @extend_schema(request=PruningRejection, responses=PruningPolicyShown)
    @action(detail=True, methods=["post"])
    def reject(self, request: Request, pk: UUID, tenant: str) -> Response:
        """Refuse, as the second person."""
        found = self.find()
        return self.shown(pruning.reject_pruning(self.actor, found, self.body(PruningRejection)["reason"]))

    @extend_schema(request=None, responses=PruningPolicyShown)
    @action(detail=True, methods=["post"])
    def end(self, request: Request, pk: UUID, tenant: str) -> Response:
        """Take a request back, or end the policy in force; what was pruned stays pruned."""
        return self.shown(pruning.end_pruning(self.actor, self.find()))
