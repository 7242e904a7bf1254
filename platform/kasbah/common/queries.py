"""Query parameters as every endpoint reads them: each stands once, and numbers are read by one parser."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request

from kasbah.common.errors import Invalid
from kasbah.common.numbers import whole_number


class NumberField(serializers.IntegerField):
    """A whole number of a query string. `min_value` and `max_value` are required."""

    def to_internal_value(self, data: Any) -> int:
        """The number. Raises ValidationError."""
        least, most = self.min_value or 0, self.max_value or 0
        number = whole_number(str(data), least, most)
        if number is None:
            raise serializers.ValidationError(f"Give a number from {least} to {most}, in digits alone.")
        return number


def read_parameters(request: Request, besides: Container[str] = ()) -> dict[str, str]:
    """The query parameters by name, without those of `besides`. Raises Invalid for one that comes twice: which of
    the two counts is a matter on which programs differ."""
    found: dict[str, str] = {}
    for name, values in request.query_params.lists():
        if len(values) > 1:
            raise Invalid("This parameter comes more than once; give it once.", param=name[:100])
        if name not in besides:
            found[name] = str(values[0])
    return found
