"""The residency policies of tenants."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.identity.models import DataClass
from kasbah.residency import services
from kasbah.residency.models import Policy, PolicyState


class PolicyShown(serializers.ModelSerializer[Policy]):
    """One version of the tenant's residency policy."""

    document = serializers.JSONField(help_text="See residency/policy.schema.json.")

    class Meta:
        model = Policy
        fields = ["id", "version", "state", "document", "created_by", "created_at", "activated_at"]


class PolicyBody(StrictBody):
    """A policy document."""

    document = serializers.DictField(help_text="See residency/policy.schema.json.")


class ProblemShown(serializers.Serializer[Any]):
    """What is wrong, and where."""

    path = serializers.CharField(help_text="JSON Pointer (RFC 6901), such as /rules/0/sites; empty: the document.")
    message = serializers.CharField()


class PolicyVerdict(serializers.Serializer[Any]):
    """Whether a document could be a policy."""

    valid = serializers.BooleanField()
    problems = ProblemShown(many=True)


class Question(StrictBody):
    """A request that might be made."""

    data_class = serializers.ChoiceField(DataClass.choices)
    model = serializers.CharField(max_length=63, help_text="Public name of the model.")
    tags = serializers.ListField(child=serializers.CharField(max_length=63), default=list, max_length=16)
    purpose = serializers.CharField(max_length=63, default="", allow_blank=True)
    project = serializers.CharField(max_length=63, default="", allow_blank=True)


class Reason(serializers.Serializer[Any]):
    """Why a site is in or out."""

    site = serializers.CharField()
    reason = serializers.CharField()


class DecisionShown(serializers.Serializer[Any]):
    """What `decide` answers, the same function that decides requests."""

    allowed = serializers.BooleanField()
    sites = serializers.ListField(child=serializers.CharField(), help_text="Slugs of the compliant sites.")
    rule = serializers.CharField(help_text="The rule that decided.")
    data_class = serializers.CharField(help_text="The class that was decided for.")
    policy = serializers.UUIDField(allow_null=True)
    policy_version = serializers.IntegerField(allow_null=True)
    reasons = Reason(many=True)


class PolicyFilters(StrictSerializer):
    """Query parameters."""

    state = serializers.ChoiceField(PolicyState.choices, required=False)
    version = serializers.IntegerField(required=False, min_value=1, max_value=2**31 - 1)


class PolicyViewSet(ListMixin, RetrieveMixin):
    """Versions of the tenant's residency policy; every version is kept, one is active."""

    queryset = Policy.objects.all()
    serializer_class = PolicyShown
    filters = PolicyFilters
    access: ClassVar = {
        "list": "policy.read",
        "retrieve": "policy.read",
        "create": "policy.manage",
        "validate": "policy.read",
        "decide": "policy.read",
        "activate": "policy.manage",
    }

    @extend_schema(request=PolicyBody, responses={201: PolicyShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Add a draft. A document with problems is refused; the first is named."""
        document = self.body(PolicyBody)["document"]
        return self.shown(services.create_policy(self.actor, self.tenant, document), 201)

    @extend_schema(request=PolicyBody, responses=PolicyVerdict)
    @action(detail=False, methods=["post"])
    def validate(self, request: Request, tenant: str) -> Response:
        """Check a document without keeping it; every problem is listed."""
        problems = services.validate(self.body(PolicyBody)["document"])
        return Response(PolicyVerdict({"valid": not problems, "problems": problems}).data)

    @extend_schema(request=Question, responses=DecisionShown)
    @action(detail=False, methods=["post"])
    def decide(self, request: Request, tenant: str) -> Response:
        """Explain what the active policy would decide."""
        return Response(DecisionShown(services.explain(self.tenant, **self.body(Question))).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def activate(self, request: Request, tenant: str, pk: UUID) -> Response:
        """Make this version the one that decides; the one before is kept as superseded."""
        services.activate_policy(self.actor, self.find())
        return self.shown(self.find())
