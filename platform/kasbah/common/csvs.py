"""CSV for people who open it in a spreadsheet: RFC 4180, and no cell that a spreadsheet would take for a formula.

A cell that begins with one of = + - @ or a control character gets an apostrophe before it, as OWASP's page on CSV
injection says: a name that somebody chose must not run on an administrator's machine.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rest_framework import serializers
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference_worker.contract.printable import escaped
from kasbah.common.browsable import StrictBrowsableAPIRenderer

# With their full-width forms, which some spreadsheets read alike.
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SPACES = " \u00a0\u3000"


def cell(value: object) -> str:
    """What stands in a cell: lists joined by spaces, true and false in words, formulas made text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)  # a number is no formula, though it may begin with a minus
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    mark = "'" if text.lstrip(SPACES).startswith(STARTS) else ""
    return mark + escaped(text, lines=True)


class Table:
    """Writes rows to `file` under the names of `columns`, which come first."""

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self._columns = columns
        self._writer = csv.writer(file)
        self._writer.writerow(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; what is no column is left out."""
        self._writer.writerow([cell(row[name]) for name in self._columns])


def text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A whole table."""
    file = io.StringIO(newline="")
    table = Table(file, columns)
    for row in rows:
        table.write(row)
    return file.getvalue()


class CsvRenderer(BaseRenderer):
    """`Accept: text/csv` or `?format=csv`. A view that is asked for it answers the text itself; an error is JSON."""

    media_type, format, charset = "text/csv", "csv", "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """The bytes."""
        return (data if isinstance(data, str) else json.dumps(data)).encode()


class CsvMixin(APIView):
    """A view that also answers CSV."""

    renderer_classes = (JSONRenderer, StrictBrowsableAPIRenderer, CsvRenderer)

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """A format that is not there is a wrong parameter, not a path that is not there."""
        known = [str(renderer.format) for renderer in self.renderer_classes]
        if not force and not set(request.query_params.getlist("format")) <= set(known):
            raise serializers.ValidationError({"format": f"There is no such format. Known: {', '.join(known)}."})
        return super().perform_content_negotiation(request, force)

    def wants_csv(self) -> bool:
        """Whether this request is to be answered with a table."""
        return bool(self.request.accepted_renderer.format == CsvRenderer.format)

    def as_file(self, name: str, content: str) -> Response:
        """A table that browsers keep as a file. `name` without its ending."""
        return Response(content, headers={"Content-Disposition": f'attachment; filename="{name}.csv"'})

    def handle_exception(self, exc: Exception) -> Response:
        """Errors are JSON for everybody."""
        response = super().handle_exception(exc)
        if getattr(self.request, "accepted_renderer", None) and self.wants_csv():
            response.content_type = "application/json"
        return response
