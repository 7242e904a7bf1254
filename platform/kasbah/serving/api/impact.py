"""What taking a site or a worker out would leave, for platform administrators."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common import csvs
from kasbah.common.api import ManagementViewSet
from kasbah.residency.models import Site
from kasbah.serving.models import Worker
from kasbah.serving.services.impact import COLUMNS, Effect, Impact, rows, site_impact, worker_impact


class LossShown(serializers.Serializer[Any]):
    """A tenant that would be left without."""

    tenant = serializers.CharField(help_text="Slug.")
    data_class = serializers.CharField()
    model = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField())
    purpose = serializers.CharField(allow_blank=True)
    project = serializers.CharField(allow_blank=True, help_text="Id.")
    effect = serializers.ChoiceField(
        [effect.value for effect in Effect],
        help_text="no_compliant_site: none that may serves the model any more; no_live_site: no worker is ready there.",
    )
    compliant = serializers.ListField(child=serializers.CharField(), help_text="Slugs of the sites that may and serve.")
    left = serializers.ListField(child=serializers.CharField(), help_text="Of those afterwards.")


class ImpactShown(serializers.Serializer[Any]):
    """All that would be lost; nothing has changed."""

    tenants = serializers.IntegerField(help_text="How many were looked at.")
    left_out = serializers.ListField(
        child=serializers.CharField(), help_text="Tenants whose rules tell too many situations apart to ask all."
    )
    losses = LossShown(many=True)


ANSWERS = {(200, "application/json"): ImpactShown, (200, "text/csv"): OpenApiTypes.STR}


class ImpactViewSet(csvs.CsvMixin, ManagementViewSet):
    """What both have in common."""

    serializer_class = ImpactShown
    long: ClassVar = frozenset({"impact"})

    def shown_impact(self, name: str, found: Impact) -> Response:
        """As a table or in JSON."""
        if self.wants_csv():
            return self.as_file(f"impact-{name}", csvs.text(COLUMNS, rows(found)))
        facts = {"tenants": found.tenants, "left_out": found.left_out, "losses": list(rows(found))}
        return Response(ImpactShown(facts).data)


class SiteImpactViewSet(ImpactViewSet):
    """A site taken out."""

    queryset = Site.objects.all()
    named_by = "slug"
    access: ClassVar = {"impact": "site.manage"}

    @extend_schema(responses=ANSWERS)
    def impact(self, request: Request, pk: UUID) -> Response:
        """Which tenants would be left without a compliant or live site if this one were cordoned, drained or lost."""
        site = self.find()
        return self.shown_impact(site.slug, site_impact(site))


class WorkerImpactViewSet(ImpactViewSet):
    """A worker taken out."""

    queryset = Worker.objects.all()
    access: ClassVar = {"impact": "worker.manage"}

    @extend_schema(responses=ANSWERS)
    def impact(self, request: Request, pk: UUID) -> Response:
        """Which tenants would be left without a live site if this worker were cordoned, drained, revoked or lost."""
        worker = self.find()
        return self.shown_impact(worker.name, worker_impact(worker))
