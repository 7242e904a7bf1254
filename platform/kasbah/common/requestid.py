"""The id of the management request that is being served: in the answer's header, in logs and in audit events."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from kasbah.common.ids import uuid7

HEADER = "x-request-id"
logger = logging.getLogger(__name__)
_current: ContextVar[str] = ContextVar("kasbah_request_id", default="")


def current() -> str:
    """The id of the request being served, or "" outside one."""
    return _current.get()


class RequestIdMiddleware:
    """Gives each request an id of our own making: one that came from outside could be made to collide."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve `request` under a new id."""
        token = _current.set(f"req_{uuid7().hex}")
        try:
            response = self._get_response(request)
            response.headers[HEADER] = current()
        finally:
            _current.reset(token)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """What a view did not foresee: the log says under which id (Django's own line knows none)."""
        logger.error("Request %s failed: %s", current(), type(exception).__name__)


class OptionalSlashMiddleware:
    """Management paths end with a slash; without it they mean the same, for every method (a redirect loses a POST)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve `request` as if the slash were there."""
        if request.path_info.startswith("/api/") and not request.path_info.endswith("/"):
            request.path_info += "/"
            request.path += "/"
        return self._get_response(request)
