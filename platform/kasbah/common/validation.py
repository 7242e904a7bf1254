"""Saving a row that a person or a program described: what is wrong is said by field."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction

from inference_worker.contract.printable import first_unprintable, named
from kasbah.common.errors import Conflict, Invalid

LONGEST_REASON = 500  # characters


def check_text(text: str, param: str, *, lines: bool = False) -> None:
    """Refuse a name or text that would change how what is printed around it is shown. Raises Invalid with the place.

    `lines`: tabs and line ends are taken. Which characters are refused: inference_worker.contract.printable.
    """
    if (at := first_unprintable(text, lines=lines)) is not None:
        raise Invalid(
            f"Character {at + 1} is {named(text[at])}, a control or formatting character that is not taken; leave it"
            " out.",
            param=param,
        )


def check_reason(reason: str) -> str:
    """A reason that a person gives, without blanks around it. Raises Invalid."""
    if not reason.strip() or len(reason) > LONGEST_REASON:
        raise Invalid(f"Give a reason, at most {LONGEST_REASON} characters.", param="reason")
    check_text(reason.strip(), "reason")
    return reason.strip()


def check(instance: models.Model, *, exclude: tuple[str, ...] = ()) -> None:
    """Validate every field and constraint. Raises Invalid naming the first field at fault, or Conflict."""
    try:
        # References were looked up by the caller inside the tenant's scope; asking for each again helps nobody.
        references = {field.name for field in instance._meta.concrete_fields if field.is_relation}
        instance.full_clean(exclude=references | set(exclude), validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise Invalid(messages[0], param=None if field == "__all__" else field) from error
    _check_texts(instance, exclude)


def _check_texts(instance: models.Model, exclude: tuple[str, ...]) -> None:
    for field in instance._meta.concrete_fields:
        text = getattr(instance, field.attname)
        if field.name in exclude or not isinstance(field, (models.CharField, models.TextField)):
            continue
        if isinstance(text, str):
            check_text(text, field.name, lines=isinstance(field, models.TextField))


def save(instance: models.Model, taken: str, *, param: str | None = None) -> None:
    """Validate and save. Raises Invalid, or Conflict with the message `taken` when a unique value exists already."""
    check(instance)
    try:
        with transaction.atomic():
            instance.save()
    except IntegrityError as error:
        raise Conflict(taken, param=param, code="already_exists") from error
