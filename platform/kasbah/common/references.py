"""How an object is named: by its id, or by the name that people know it by, in API and commands alike."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import models
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


def by_reference(queryset: models.QuerySet[Any], reference: str | UUID, name: str) -> Any:
    """The object whose id, or else whose column `name`, is `reference`; None when there is none."""
    try:
        ident = reference if isinstance(reference, UUID) else UUID(reference)
    except ValueError:
        return queryset.filter(**{name: reference}).first()
    return queryset.filter(pk=ident).first() or queryset.filter(**{name: str(reference)}).first()


@extend_schema_field(OpenApiTypes.STR)
class ReferenceField(serializers.UUIDField):
    """An id, or the name that stands for it; the validated value is the id.

    `model` is "app.Model"; `named_by` the column with the name. What looks like an id is passed on as it is: whether
    there is such an object is for whoever uses it to say. Raises ValidationError for a name that nothing visible has.
    """

    def __init__(self, model: str, named_by: str = "slug", **options: Any) -> None:
        self._model, self._named_by = model, named_by
        options.setdefault("help_text", f"Its id or its {named_by}.")
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> UUID:
        """The id."""
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError:
            found = self._named(data) if isinstance(data, str) and "\0" not in data else None
            if found is None:
                kind = self._model.rpartition(".")[2].lower()
                raise serializers.ValidationError(
                    f"There is no {kind} of that name here; give its id or its {self._named_by}."
                ) from None
            return found

    def _named(self, name: str) -> UUID | None:
        rows = apps.get_model(self._model)._default_manager.filter(**{self._named_by: name})
        found: UUID | None = rows.values_list("pk", flat=True).first()
        return found
