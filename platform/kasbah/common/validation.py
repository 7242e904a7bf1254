"""Saving a row that a person or a program described: what is wrong is said by field."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction

from kasbah.common.errors import Conflict, Invalid


def check(instance: models.Model, *, exclude: tuple[str, ...] = ()) -> None:
    """Validate every field and constraint. Raises Invalid naming the first field at fault, or Conflict."""
    try:
        # References were looked up by the caller inside the tenant's scope; asking for each again helps nobody.
        references = {field.name for field in instance._meta.concrete_fields if field.is_relation}
        instance.full_clean(exclude=references | set(exclude), validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise Invalid(messages[0], param=None if field == "__all__" else field) from error


def save(instance: models.Model, taken: str, *, param: str | None = None) -> None:
    """Validate and save. Raises Invalid, or Conflict with the message `taken` when a unique value exists already."""
    check(instance)
    try:
        with transaction.atomic():
            instance.save()
    except IntegrityError as error:
        raise Conflict(taken, param=param, code="already_exists") from error
