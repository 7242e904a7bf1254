"""The residency policies of tenants."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.api import StrictBody
from kasbah.common.times import TimeField
from kasbah.identity.models import DataClass
from kasbah.residency import services
from kasbah.residency.api.versions import SHOWN, ActivationBody, PolicyBody, VersionShown, VersionsViewSet
from kasbah.residency.models import Policy


class PolicyShown(VersionShown):
    """One version of the tenant's residency policy."""

    class Meta:
        model = Policy
        fields = SHOWN


class Question(StrictBody):
    """A request that might be made."""

    data_class = serializers.ChoiceField(DataClass.choices)
    model = serializers.CharField(max_length=63, help_text="Public name of the model.")
    tags = serializers.ListField(child=serializers.CharField(max_length=63), default=list, max_length=16)
    purpose = serializers.CharField(max_length=63, default="", allow_blank=True)
    project = serializers.CharField(max_length=63, default="", allow_blank=True)
    found = serializers.BooleanField(
        default=False, help_text="Whether the policy's classifier finds something in its text, and raises it."
    )
    at = TimeField(required=False, help_text="When it would be made; left out: now.")


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
    declared_class = serializers.CharField(
        allow_null=True, help_text="The class before, where what was found raises it: both must be allowed."
    )
    denied_as = serializers.ListField(
        child=serializers.ChoiceField([services.DECLARED, services.RAISED]),
        help_text="Then, if denied: as which of the two.",
    )
    policy = serializers.UUIDField(allow_null=True)
    policy_version = serializers.IntegerField(allow_null=True)
    baseline_version = serializers.IntegerField(allow_null=True, help_text="Of the platform's baseline above it.")
    reasons = Reason(many=True)


@extend_schema_view(
    create=extend_schema(request=PolicyBody, responses={201: PolicyShown}),
    rollback=extend_schema(request=ActivationBody, responses={201: PolicyShown}),
)
class PolicyViewSet(VersionsViewSet):
    """Versions of the tenant's residency policy; every version is kept, one is active."""

    queryset = Policy.objects.all()
    serializer_class = PolicyShown
    access: ClassVar = {
        **{verb: f"policy.{permission}" for verb, permission in VersionsViewSet.verbs.items()},
        "decide": "policy.read",
    }

    @extend_schema(request=Question, responses=DecisionShown)
    @action(detail=False, methods=["post"])
    def decide(self, request: Request, tenant: str) -> Response:
        """Explain what the active policy would decide."""
        return Response(DecisionShown(services.explain(self.tenant, **self.body(Question))).data)
