"""A tenant's export, for its auditor."""

from __future__ import annotations

import io
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from kasbah.audit.export.exporting import PARTS, Wanted, begin, export
from kasbah.audit.export.selection import MODEL, PERSON, REQUEST, Selection
from kasbah.common.api import ManagementView, StrictSerializer
from kasbah.common.errors import Invalid
from kasbah.common.numbers import LARGEST_SIZE
from kasbah.common.queries import NumberField, read_parameters
from kasbah.common.times import TimeField

MOST = 50_000  # events in one answer; a request must end while somebody waits for it


class ExportQuery(StrictSerializer):
    """Query parameters."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` is a word of Python's."""
        return {
            "from": TimeField(required=False, help_text="First moment; else the log's start."),
            "to": TimeField(required=False, help_text="Up to this moment; else all there is."),
            "person": serializers.UUIDField(required=False, help_text="A user: what he did and what was done to him."),
            "model": serializers.RegexField(
                "^[0-9a-f]{64}$", required=False, help_text="A version's digest: what is on record of it."
            ),
            "request": serializers.CharField(required=False, max_length=64, help_text="One request: its dossier."),
            "open": serializers.ChoiceField(
                list(PARTS), required=False, help_text="With request or person: which content to open, if it is kept."
            ),
            "since_size": NumberField(
                min_value=1,
                max_value=LARGEST_SIZE,
                required=False,
                help_text="Prove that the log begins with that of the checkpoint of this size, which you kept.",
            ),
        }


class ExportView(ManagementView):
    """The tenant's log as an archive that is checked without Kasbah."""

    access: ClassVar = {"get": "audit.read"}
    long: ClassVar = frozenset({"get"})

    @extend_schema(parameters=[ExportQuery], responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, tenant: str) -> HttpResponse:
        """A zip with events and the program that checks it; see docs/auditor/audit-log.md. Of a period, a person, a
        model or one request."""
        query = ExportQuery(data=read_parameters(request))
        query.is_valid(raise_exception=True)
        wanted = self._wanted(query.validated_data)
        file = io.BytesIO()  # MOST bounds it: some ten MiB
        with tempfile.TemporaryDirectory() as folder:
            work, choice, _ = begin(Path(folder), wanted, self.actor)
            with closing(work):
                done = export(file, work, choice, self.actor)
        what = wanted.selection.kind if wanted.selection.by else "audit"
        name = f"{what}-{self.tenant.slug}-{done.start}-{done.end}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return HttpResponse(file.getvalue(), content_type="application/zip", headers=headers)

    def _wanted(self, given: dict[str, Any]) -> Wanted:
        return Wanted(
            tenant_id=UUID(str(self.tenant.id)),
            since=given.get("from"),
            until=given.get("to"),
            selection=selected({kind: str(given[kind]) for kind in (PERSON, MODEL, REQUEST) if given.get(kind)}),
            opened=PARTS[given["open"]] if given.get("open") else (),
            since_size=given.get("since_size"),
            most=MOST,
        )


def selected(given: dict[str, str]) -> Selection:
    """The one selection that is asked for. Raises Invalid."""
    if len(given) > 1:
        raise Invalid("Ask for a person, a model or a request, not for several at once.", param=sorted(given)[1])
    return next((Selection(kind, by) for kind, by in given.items()), Selection())
