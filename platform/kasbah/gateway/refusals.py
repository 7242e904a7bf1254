"""The refusals that the table of the API's decisions names (docs/developer/errors.md)."""

from __future__ import annotations

from kasbah.common.errors import Forbidden, Invalid, KasbahError, NotFound, Unavailable
from kasbah.residency.services import Decision


def residency_denied(decision: Decision) -> Forbidden:
    """Names the rule and the policy version; trying again changes nothing."""
    return Forbidden(
        f"Residency policy version {decision.policy_version}, rule {decision.rule}: {decision.explain()} Ask your"
        " tenant's administrator, or send another kasbah-data-class if the content really is of another class.",
        code="residency_denied",
    )


def model_not_found(name: str) -> NotFound:
    """Unknown, or not for this key: the two are not told apart."""
    return NotFound(
        f"The model {name!r} does not exist or you do not have access to it. GET /v1/models lists yours.",
        param="model",
        code="model_not_found",
    )


def no_capacity(name: str) -> Unavailable:
    """No worker serves the model at a compliant site now."""
    return Unavailable(
        f"No worker serves the model {name!r} at a site where your request may be processed. Try again.",
        code="no_capacity",
        retry_after=5,
    )


def shutting_down() -> Unavailable:
    """This process ends; another one answers."""
    return Unavailable("This server is shutting down. Try again.", code="server_shutting_down", retry_after=1)


def invalid_data_class(known: str) -> Invalid:
    """The header names no data class."""
    return Invalid(f"kasbah-data-class is one of {known}.", param="kasbah-data-class", code="invalid_data_class")


class MethodNotAllowed(KasbahError):
    """The path is served, but not by this method."""

    status, code, kind = 405, "method_not_allowed", "invalid_request_error"


class Failure(KasbahError):
    """What a worker said about a request that failed: its status, code and message."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message, param=param, code=code, retry_after=2 if status == 503 else None)
        self.status = status
        self.kind = "invalid_request_error" if status < 500 else "api_error"
