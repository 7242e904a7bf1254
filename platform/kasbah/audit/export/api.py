"""A tenant's export, for its auditor."""

from __future__ import annotations

import io
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from kasbah.audit.export.exporting import choose, export
from kasbah.common.api import ManagementView, StrictSerializer
from kasbah.common.errors import Invalid

MOST = 50_000  # events in one answer; a request must end while somebody waits for it


class ExportQuery(StrictSerializer):
    """Query parameters."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` is a word of Python's."""
        return {
            "from": serializers.DateTimeField(required=False, help_text="First moment; else the log's start."),
            "to": serializers.DateTimeField(required=False, help_text="Up to this moment; else all there is."),
        }


class ExportView(ManagementView):
    """The tenant's log as an archive that is checked without Kasbah."""

    access: ClassVar = {"get": "audit.read"}

    @extend_schema(parameters=[ExportQuery], responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, tenant: str) -> HttpResponse:
        """A zip with the events of a period and the program that checks it; see docs/auditor/audit-log.md."""
        query = ExportQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        since, until = (query.validated_data.get(name) for name in ("from", "to"))
        log, wanted = choose(UUID(str(self.tenant.id)), since, until)
        if wanted.end - wanted.start > MOST:
            raise Invalid(
                f"The period has {wanted.end - wanted.start} events, and one answer at most {MOST}: ask for a shorter"
                " one, or have an operator run: manage.py auditexport",
                param="from",
            )
        file = io.BytesIO()  # MOST bounds it: some ten MiB
        export(file, log, wanted, self.actor.ref)
        name = f"audit-{self.tenant.slug}-{wanted.start}-{wanted.end}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return HttpResponse(file.getvalue(), content_type="application/zip", headers=headers)
