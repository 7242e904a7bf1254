"""Limits of tenants, projects and keys, and usage as the server counted it."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.queries import read_parameters
from kasbah.common.references import ReferenceField
from kasbah.common.times import PeriodMixin, TimeField
from kasbah.metering import services
from kasbah.metering.models import Limit, LimitScope, Period, Usage

MOST = 1_000_000_000
BIG = 2**53 - 1  # what every JSON program can read


def count(most: int) -> serializers.IntegerField:
    """A limit; null, the default, means none."""
    return serializers.IntegerField(allow_null=True, default=None, min_value=0, max_value=most)


class LimitShown(serializers.ModelSerializer[Limit]):
    """Burst limits a minute and a quota of tokens a period (UTC); null means none."""

    class Meta:
        model = Limit
        fields = [
            "id", "scope", "subject_id", "requests_per_minute", "tokens_per_minute", "tokens_per_period", "period",
        ]  # fmt: skip


class LimitBody(StrictBody):
    """The limit of one subject; it replaces the one that is there."""

    scope = serializers.ChoiceField(LimitScope.choices)
    subject_id = serializers.UUIDField(help_text="Id of the tenant, project or key.")
    requests_per_minute = count(MOST)
    tokens_per_minute = count(MOST)
    tokens_per_period = count(BIG)
    period = serializers.ChoiceField(Period.choices, default=Period.MONTH)


class LimitFilters(StrictSerializer):
    """Query parameters."""

    scope = serializers.ChoiceField(LimitScope.choices, required=False)
    subject_id = serializers.UUIDField(required=False)


class LimitViewSet(ListMixin, RetrieveMixin):
    """What may be used of the platform, and how fast."""

    queryset = Limit.objects.all()
    serializer_class = LimitShown
    filters = LimitFilters
    access: ClassVar = {
        "list": "limit.read",
        "retrieve": "limit.read",
        "create": "limit.manage",
        "destroy": "limit.manage",
    }

    @extend_schema(request=LimitBody, responses={201: LimitShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Set the limit of a subject; one that is there is replaced."""
        return self.shown(services.set_limit(self.actor, self.tenant, **self.body(LimitBody)), 201)

    def destroy(self, request: Request, tenant: str, pk: UUID) -> Response:
        """Remove a limit."""
        services.remove_limit(self.actor, self.find())
        return Response(status=204)


class UsageShown(serializers.ModelSerializer[Usage]):
    """Tokens of one job; `id` is the job's."""

    class Meta:
        model = Usage
        fields = [
            "id", "project", "api_key", "deployment", "endpoint", "prompt_tokens", "completion_tokens", "exact",
            "created_at",
        ]  # fmt: skip


class UsageFilters(PeriodMixin, StrictSerializer):
    """Query parameters."""

    project = ReferenceField("identity.Project", required=False)
    api_key = serializers.UUIDField(required=False)
    deployment = serializers.CharField(required=False, max_length=63, help_text="Public name of the model.")
    since = TimeField(required=False, source="created_at__gte")
    until = TimeField(required=False, source="created_at__lt")


class SummaryQuery(UsageFilters):
    """Query parameters."""

    by = serializers.ChoiceField(services.GROUPS, default="day")


class SummaryLine(serializers.Serializer[Any]):
    """Sums of one group."""

    group = serializers.CharField(help_text="The day (YYYY-MM-DD, UTC), model name, or id.")
    requests = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()


class Summary(serializers.Serializer[Any]):
    """Usage in groups."""

    groups = SummaryLine(many=True)


class UsageViewSet(ListMixin, RetrieveMixin):
    """Tokens of every job, aborted ones included."""

    queryset = Usage.objects.all()
    serializer_class = UsageShown
    filters = UsageFilters
    access: ClassVar = {"list": "usage.read", "retrieve": "usage.read", "summary": "usage.read"}
    long: ClassVar = frozenset({"summary"})

    @extend_schema(parameters=[SummaryQuery], responses=Summary)
    @action(detail=False, methods=["get"])
    def summary(self, request: Request, tenant: str) -> Response:
        """Sums by day, model, project or key."""
        query = SummaryQuery(data=read_parameters(request))
        query.is_valid(raise_exception=True)
        chosen = dict(query.validated_data)
        by = chosen.pop("by")
        groups = services.sum_usage(self.rows().filter(**chosen), by)
        return Response(Summary({"groups": groups}).data)
