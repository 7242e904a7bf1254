"""The matrix: what the policy answers for every class, model and site, and whether it is up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common import csvs, rls
from kasbah.common.api import ManagementView, ManagementViewSet, StrictSerializer
from kasbah.common.errors import Forbidden, Invalid
from kasbah.common.queries import read_parameters
from kasbah.common.times import TimeField
from kasbah.identity.models import DataClass, Tenant
from kasbah.residency.models import Policy
from kasbah.serving.services.matrix import COLUMNS, MOST_CELLS, Asked, Matrix, tenant_matrix
from kasbah.serving.services.offering import load_offering

TAGS = r"^[a-z0-9][a-z0-9_-]{0,62}(,[a-z0-9][a-z0-9_-]{0,62}){0,15}$"


class MatrixQuery(StrictSerializer):
    """Query parameters."""

    data_class = serializers.ChoiceField(DataClass.choices, required=False, help_text="One class; else all.")
    tags = serializers.RegexField(TAGS, required=False, help_text="Of the data, separated by commas.")
    purpose = serializers.CharField(required=False, max_length=63)
    at = TimeField(required=False, help_text="The moment that time windows are compared with; now.")


class TenantMatrixQuery(MatrixQuery):
    """Query parameters."""

    project = serializers.CharField(required=False, max_length=63, help_text="Slug or id.")
    policy = serializers.UUIDField(required=False, help_text="A version, such as a draft; else the active one.")
    models = serializers.ChoiceField(
        ["granted", "all"],
        default="granted",
        help_text="all: also those that the tenant may not use; for the platform.",
    )


class CellShown(serializers.Serializer[Any]):
    """One answer."""

    data_class = serializers.CharField()
    model = serializers.CharField()
    site = serializers.CharField(help_text="Slug.")
    jurisdiction = serializers.CharField()
    allowed = serializers.BooleanField()
    rule = serializers.CharField(help_text="The rule behind the answer.")
    served = serializers.BooleanField(help_text="The model is deployed there, and the site takes jobs.")
    up = serializers.BooleanField(help_text="And a worker is ready now. It says nothing about what is allowed.")


class MatrixShown(serializers.Serializer[Any]):
    """The matrix of one tenant."""

    tenant = serializers.CharField(source="tenant.slug")
    policy = serializers.UUIDField(source="policy.id", default=None, allow_null=True)
    policy_version = serializers.IntegerField(source="policy.version", default=None, allow_null=True)
    policy_state = serializers.CharField(source="policy.state", default=None, allow_null=True)
    baseline_version = serializers.IntegerField(help_text="0: there is no baseline.")
    at = serializers.DateTimeField()
    problem = serializers.CharField(allow_blank=True, help_text="Why the policy could not be used, if so.")
    cells = CellShown(many=True)


def asked(query: dict[str, Any]) -> Asked:
    """What the cells are to be asked about."""
    return Asked(
        data_classes=(query["data_class"],) if "data_class" in query else tuple(DataClass.values),
        tags=tuple(query["tags"].split(",")) if "tags" in query else (),
        purpose=query.get("purpose", ""),
        project=query.get("project", ""),
        at=query.get("at"),
        every_model=query.get("models") == "all",
    )


class MatrixView(csvs.CsvMixin, ManagementView):
    """The matrix of a tenant."""

    access: ClassVar = {"get": "policy.read"}
    long: ClassVar = frozenset({"get"})

    @extend_schema(
        parameters=[TenantMatrixQuery],
        responses={(200, "application/json"): MatrixShown, (200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request, tenant: str) -> Response:
        """For every class, model and site whether the policy allows it and by which rule, and whether it is up."""
        given = read_parameters(request, besides=("format",))
        query = TenantMatrixQuery(data=given)
        query.is_valid(raise_exception=True)
        chosen = dict(query.validated_data)
        if chosen["models"] == "all" and not self.actor.is_platform_admin:
            raise Forbidden("Only platform administrators see models that the tenant may not use.", param="models")
        found = tenant_matrix(self.tenant, asked(chosen), self._policy(chosen.get("policy")))
        if self.wants_csv():
            return self.as_file(f"matrix-{self.tenant.slug}", csvs.text(COLUMNS, found.rows()))
        return Response(MatrixShown(found).data)

    def _policy(self, ident: UUID | None) -> Policy | None:
        if ident is None:
            return None
        policy = Policy.objects.filter(tenant_id=self.tenant.id, pk=ident).first()
        if policy is None:
            raise exceptions.NotFound
        return policy


class PlatformMatrixViewSet(csvs.CsvMixin, ManagementViewSet):
    """The matrices of all tenants."""

    queryset = Tenant.objects.all()
    serializer_class = MatrixShown
    filters = MatrixQuery
    access: ClassVar = {"list": "policy.read"}
    long: ClassVar = frozenset({"list"})

    @contextmanager
    def scope(self) -> Iterator[None]:
        """All tenants: the permission, asked for without a tenant, is a platform administrator's alone."""
        with rls.platform_scope():
            yield

    def filtered(self, queryset: models.QuerySet[Any], filters: dict[str, Any]) -> models.QuerySet[Any]:
        """They are about the cells, not about which tenants."""
        return queryset

    @extend_schema(responses={(200, "application/json"): MatrixShown(many=True), (200, "text/csv"): OpenApiTypes.STR})
    def list(self, request: Request) -> Response:
        """One page of tenants, newest first, each with its matrix."""
        wanted = asked(self.read_query())
        page = self.paginate_queryset(self.rows())
        offering = load_offering()
        found: list[Matrix] = []
        for tenant in page or []:
            found.append(tenant_matrix(tenant, wanted, offering=offering))
            if sum(len(each.cells) for each in found) > MOST_CELLS:
                raise Invalid("These tenants have too many cells for one page; give a smaller limit.", param="limit")
        response = self.get_paginated_response(MatrixShown(found, many=True).data)
        if not self.wants_csv():
            return response
        table = self.as_file("matrix", csvs.text(COLUMNS, (row for each in found for row in each.rows())))
        if response.data["next"]:
            table.headers["Link"] = f'<{response.data["next"]}>; rel="next"'
        return table
