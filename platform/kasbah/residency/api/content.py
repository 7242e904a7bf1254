"""What is kept of requests: how much, until when, what is held, and, for an auditor alone, the content itself."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.audit.models import LegalHold, Part
from kasbah.common.api import ListMixin, ManagementView, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.references import ReferenceField
from kasbah.common.times import TimeField
from kasbah.identity.models import DataClass
from kasbah.residency.services import disclosure, holds, retention
from kasbah.residency.services.holds import Reach


class HoldShown(serializers.ModelSerializer[LegalHold]):
    """A legal hold. Persons are ids of users; null: a key or a command, which the event names."""

    project = serializers.UUIDField(source="project_id", allow_null=True)
    release_digest = serializers.SerializerMethodField(help_text="What a release is bound to; empty: nobody asks.")

    class Meta:
        model = LegalHold
        fields = [
            "id",
            "project",
            "data_class",
            "request_id",
            "since",
            "until",
            "reason",
            "reference",
            "placed_by",
            "placed_at",
            "release_requested_by",
            "release_requested_at",
            "release_reason",
            "release_digest",
            "released_by",
            "released_at",
        ]

    def get_release_digest(self, hold: LegalHold) -> str:
        """Of what the second person looks at."""
        return holds.release_seen_of(hold)


class HoldBody(StrictBody):
    """What is to be kept: all that fits every condition which is given. None given: everything of the tenant."""

    reason = serializers.CharField(max_length=500)
    reference = serializers.CharField(max_length=200, help_text="Of the proceeding, such as a case number.")
    project = ReferenceField("identity.Project", required=False, source="project_id")
    data_class = serializers.ChoiceField(DataClass.choices, required=False)
    request_id = serializers.CharField(required=False, max_length=64, help_text="Of one request: req_...")
    since = TimeField(required=False, help_text="Content stored from then on.")
    until = TimeField(required=False, help_text="Content stored before then.")


class ReleaseBody(StrictBody):
    """Why."""

    reason = serializers.CharField(max_length=500)


class ReleaseApproval(StrictBody):
    """What was looked at."""

    digest = serializers.CharField(max_length=64, help_text="The hold's release_digest.")


class HoldFilters(StrictSerializer):
    """Query parameters."""

    active = serializers.BooleanField(required=False, help_text="true: not released yet.")


class HoldViewSet(ListMixin, RetrieveMixin):
    """The tenant's legal holds; released ones stay on the list."""

    queryset = LegalHold.objects.all()
    serializer_class = HoldShown
    filters = HoldFilters
    access: ClassVar = {
        "list": "hold.read",
        "retrieve": "hold.read",
        "create": "hold.manage",
        "request_release": "hold.release",
        "release": "hold.release",
    }

    def filtered(self, queryset: models.QuerySet[Any], filters: dict[str, Any]) -> models.QuerySet[Any]:
        """Active ones, or released ones, or both."""
        active = filters.get("active")
        return queryset if active is None else queryset.filter(released_at__isnull=active)

    @extend_schema(request=HoldBody, responses={201: HoldShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Place a hold. It keeps from now on; what is erased already does not come back."""
        given = self.body(HoldBody)
        reason, reference = given.pop("reason"), given.pop("reference")
        hold = holds.place_hold(self.actor, self.tenant, Reach(**given), reason=reason, reference=reference)
        return self.shown(hold, 201)

    @extend_schema(request=ReleaseBody, responses=HoldShown)
    @action(detail=True, methods=["post"], url_path="request-release")
    def request_release(self, request: Request, tenant: str, pk: UUID) -> Response:
        """Ask for its release; a second person must agree within seven days."""
        return self.shown(holds.request_release(self.actor, self.find(), self.body(ReleaseBody)["reason"]))

    @extend_schema(request=ReleaseApproval, responses=HoldShown)
    @action(detail=True, methods=["post"])
    def release(self, request: Request, tenant: str, pk: UUID) -> Response:
        """Release it, as the second person, with a login that is at most ten minutes old."""
        return self.shown(holds.release_hold(self.actor, self.find(), self.body(ReleaseApproval)["digest"]))


class ClassKept(serializers.Serializer[Any]):
    """One data class."""

    data_class = serializers.CharField()
    level = serializers.CharField(allow_null=True, help_text="none, commitment or sealed; null without a policy.")
    floor_days = serializers.IntegerField(allow_null=True)
    ceiling_days = serializers.IntegerField(allow_null=True, help_text="0: none is given.")
    policy_version = serializers.IntegerField(allow_null=True)
    records = serializers.IntegerField(help_text="Sides of requests of which anything is kept.")
    sealed = serializers.IntegerField(help_text="Those of which the content itself is kept.")
    oldest = serializers.DateTimeField(allow_null=True)
    due = serializers.IntegerField(help_text="To be erased when the job next runs.")
    held = serializers.IntegerField(help_text="Under a legal hold.")


class RetentionShown(serializers.Serializer[Any]):
    """All classes, also those of which nothing is kept."""

    classes = ClassKept(many=True)


class RetentionView(ManagementView):
    """What is kept of the tenant's requests."""

    access: ClassVar = {"get": "hold.read"}

    @extend_schema(responses=RetentionShown)
    def get(self, request: Request, tenant: str) -> Response:
        """By class: how much, since when, and what is due or held."""
        return Response(
            {"classes": [ClassKept(retention.facts(item)).data for item in retention.standing(self.tenant)]}
        )


class PartShown(serializers.Serializer[Any]):
    """One side of the request. HMAC-SHA256 of `content` (UTF-8) under `opening` is `commitment`."""

    part = serializers.ChoiceField(Part.choices)
    form = serializers.CharField(help_text="body: the HTTP body as it was; stream: see docs/auditor/content.md.")
    level = serializers.CharField()
    event = serializers.UUIDField(help_text="The audit event that holds the commitment.")
    commitment = serializers.CharField(help_text="Hex.")
    opening = serializers.CharField(allow_null=True, help_text="Hex, 32 bytes; null: erased.")
    content = serializers.CharField(allow_null=True, help_text="null: not kept, or erased.")
    created_at = serializers.DateTimeField()
    erased_at = serializers.DateTimeField(allow_null=True)
    erased_reason = serializers.CharField()


class ContentShown(serializers.Serializer[Any]):
    """What is kept of one request."""

    request_id = serializers.CharField()
    data_class = serializers.CharField()
    policy = serializers.CharField(help_text="id@version under which it was stored.")
    parts = PartShown(many=True)


class ContentView(ManagementView):
    """Prompt and answer of one request, for whoever may read content. Each read is an event."""

    access: ClassVar = {"get": "content.read"}

    @extend_schema(responses=ContentShown)
    def get(self, request: Request, tenant: str, request_id: str) -> Response:
        """The content and the openings of its commitments."""
        return Response(ContentShown(disclosure.read_content(self.actor, self.tenant, request_id)).data)
