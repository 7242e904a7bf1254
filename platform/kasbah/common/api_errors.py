"""One body for every error of the management API, the same as the gateway's: {"error": {message, type, param, code}}.

Django REST framework's own exceptions are translated here; what nobody foresaw is logged and answered with a 500
that tells nothing of the inside.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as ModelValidationError
from django.db import DataError, IntegrityError
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response

from kasbah.common import errors
from kasbah.common.database import unavailable
from kasbah.common.requestid import current

logger = logging.getLogger(__name__)

NOT_FOUND = "There is no such object, or you may not see it."
# Called with every error that is about to be answered, and Django REST framework's context or the command's name. This
# layer knows no audit.
HEARERS: list[Callable[[errors.KasbahError, dict[str, Any]], None]] = []


class NotAllowed(errors.KasbahError):
    """The method does not exist on this path."""

    status, code, kind = 405, "method_not_allowed", "invalid_request_error"


class NotAcceptable(errors.KasbahError):
    """The client accepts none of the formats that this API writes."""

    status, code, kind = 406, "not_acceptable", "invalid_request_error"


class UnsupportedMedia(errors.KasbahError):
    """The body is not JSON."""

    status, code, kind = 415, "unsupported_media_type", "invalid_request_error"


def body(error: errors.KasbahError) -> dict[str, dict[str, str | None]]:
    """The JSON of an error."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Django REST framework's EXCEPTION_HANDLER."""
    known = translate(error)
    for hear in HEARERS:
        hear(known, context)
    if known.status >= 500 and not isinstance(error, errors.KasbahError):
        logger.error("Request %s failed", current(), exc_info=error)
    response = Response(body(known), status=known.status)
    for name, value in known.headers.items():
        response[name] = value
    if known.retry_after is not None:
        response["Retry-After"] = str(max(1, round(known.retry_after)))
    if known.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="kasbah"'
    if isinstance(error, exceptions.MethodNotAllowed):
        response["Allow"] = ", ".join(context["view"].allowed_methods)
    return response


SIMPLE: tuple[tuple[tuple[type[Exception], ...], errors.KasbahError], ...] = (
    ((Http404, exceptions.NotFound), errors.NotFound(NOT_FOUND)),
    (
        (exceptions.NotAuthenticated, exceptions.AuthenticationFailed),
        errors.Unauthenticated("Send a valid API key as 'Authorization: Bearer KEY', or log in at /api/session/."),
    ),
    ((exceptions.NotAcceptable,), NotAcceptable("This API answers in application/json.")),
    ((exceptions.UnsupportedMediaType,), UnsupportedMedia("Send the body as application/json.")),
    ((PermissionDenied,), errors.Forbidden("You may not do this.")),
    ((IntegrityError,), errors.Conflict("This exists already, or other objects still depend on it.")),
    (
        (DataError, UnicodeEncodeError, RecursionError),
        errors.Invalid("A value has characters or a size that cannot be stored."),
    ),
)
INSIDE = "Something failed inside; it was logged under this answer's x-request-id."


def translate(error: Exception) -> errors.KasbahError:
    """The error that a person is meant to read."""
    if (away := unavailable(error)) is not None:
        return away
    for kinds, answer_to_them in SIMPLE:
        if isinstance(error, kinds):
            return answer_to_them
    result = errors.KasbahError(INSIDE)
    match error:
        case errors.KasbahError():
            result = error
        case exceptions.ValidationError():
            param, message = first_problem(error.detail)
            result = errors.Invalid(message, param=param)
        case ModelValidationError():
            result = _model_validation(error)
        case exceptions.PermissionDenied():
            result = errors.Forbidden(str(error.detail))
        case exceptions.MethodNotAllowed():
            result = NotAllowed(str(error.detail))
        case exceptions.ParseError():
            result = errors.Invalid(f"The body is not valid JSON: {error.detail}")
    return result


def _model_validation(error: ModelValidationError) -> errors.KasbahError:
    if hasattr(error, "error_dict"):
        field, messages = next(iter(error.message_dict.items()))
        return errors.Invalid(messages[0], param=None if field == "__all__" else field)
    return errors.Invalid(error.messages[0])


def first_problem(detail: Any, path: str = "") -> tuple[str | None, str]:
    """The first message of a validation error's tree, and the dotted path of its field."""
    if isinstance(detail, dict) and detail:
        key, value = next(iter(detail.items()))
        if key == "non_field_errors":
            return first_problem(value, path)
        index = isinstance(key, int) or key.isdigit()
        return first_problem(value, f"{path}[{key}]" if index else f"{path}.{key}".lstrip("."))
    if isinstance(detail, list) and detail:
        # A list of messages, or one entry for each item of a list field, empty where the item is good.
        index, value = next(((i, item) for i, item in enumerate(detail) if item), (0, detail[0]))
        return first_problem(value, f"{path}[{index}]" if isinstance(value, (dict, list)) else path)
    return path or None, str(detail)


def answer(error: errors.KasbahError) -> JsonResponse:
    """The same body outside Django REST framework."""
    response = JsonResponse(body(error), status=error.status, headers=error.headers)
    if error.retry_after is not None:
        response["Retry-After"] = str(max(1, round(error.retry_after)))
    return response


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler400."""
    return answer(errors.Invalid("The request is malformed."))


def permission_denied(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler403."""
    return answer(errors.Forbidden("You may not do this."))


def page_not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler404."""
    return answer(errors.NotFound(NOT_FOUND))


def server_error(request: HttpRequest) -> JsonResponse:
    """Django's handler500: of what failed outside a view too, such as the session that is stored after it."""
    error = sys.exception()
    away = unavailable(error) if error is not None else None
    return answer(away or errors.KasbahError(INSIDE))


def csrf_failure(request: HttpRequest, reason: str = "") -> JsonResponse:
    """Django's CSRF_FAILURE_VIEW."""
    return answer(errors.Forbidden(f"The CSRF token is missing or wrong: {reason}", code="csrf_failed"))
