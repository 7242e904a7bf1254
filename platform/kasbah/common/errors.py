"""Errors that a person or a program outside is meant to read.

A service raises one of these; the gateway turns it into OpenAI's error body and the management API into DRF's.
"""

from __future__ import annotations

from collections.abc import Mapping


class KasbahError(Exception):
    """`message` says what is wrong and the way out, `param` names the field, `code` is stable for programs.

    `headers` are to be sent with the answer, `retry_after` is in seconds.
    """

    status = 500
    code = "internal_error"
    kind = "api_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after = retry_after
        self.headers = dict(headers or {})


class Invalid(KasbahError):
    """The request is wrong; sending it again changes nothing."""

    status, code, kind = 400, "invalid_request", "invalid_request_error"


class Unauthenticated(KasbahError):
    """No key or token, or one that is not valid."""

    status, code, kind = 401, "invalid_api_key", "authentication_error"


class Forbidden(KasbahError):
    """Known, but not allowed."""

    status, code, kind = 403, "permission_denied", "permission_error"


class NotFound(KasbahError):
    """It does not exist, or not for the one who asks; the two are not told apart."""

    status, code, kind = 404, "not_found", "invalid_request_error"


class TimedOut(KasbahError):
    """The client did not send its request in time; it may send it again."""

    status, code, kind = 408, "request_timeout", "invalid_request_error"


class Conflict(KasbahError):
    """The state of the object does not allow it."""

    status, code, kind = 409, "conflict", "invalid_request_error"


class TooLarge(KasbahError):
    """The body is over the limit."""

    status, code, kind = 413, "request_too_large", "invalid_request_error"


class Mismatch(KasbahError):
    """The same idempotency key came with another body."""

    status, code, kind = 422, "idempotency_mismatch", "invalid_request_error"


class RateLimited(KasbahError):
    """Too many now; `retry_after` says when."""

    status, code, kind = 429, "rate_limit_exceeded", "rate_limit_error"


class QuotaExceeded(KasbahError):
    """The quota of the period is used up; trying again does not help."""

    status, code, kind = 429, "insufficient_quota", "insufficient_quota"


class Unavailable(KasbahError):
    """A part that is needed is away; nothing was done and nothing is lost."""

    status, code, kind = 503, "service_unavailable", "api_error"
