"""The refusals that the table of the API's decisions names (docs/developer/errors.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kasbah.common.errors import Forbidden, Invalid, KasbahError, NotFound, Unavailable
from kasbah.residency.services import DECLARED, RAISED, CompiledPolicy, Decision, Question, decide_raised
from kasbah.residency.services.classification import UNREAD, summary


def residency_denied(
    policy: CompiledPolicy | None, decision: Decision, asked: Question, question: Question, found: Mapping[str, int]
) -> Forbidden:
    """Names the rule, the policy version, what was asked, and what the classifier found; trying again changes nothing.

    `asked`: as the client asked; `question`: as it was decided about, with what the classifier added.
    """
    deciding = _deciding(policy, asked, question)
    return Forbidden(
        f"Residency policy version {decision.policy_version}, rule {decision.rule}: {decision.explain()}"
        f" {_as_which(decision)}{_asked(decision, question)}{_without(deciding)}"
        f"Ask your tenant's administrator, or {_way_out(decision, found)}{_also(question)}",
        code="residency_denied",
    )


def _asked(decision: Decision, question: Question) -> str:
    """All that a rule may have looked at, so that it is not only the class that is named."""
    tags = f"the tags {', '.join(question.tags)}" if question.tags else "no tags"
    purpose = f"the purpose {question.purpose}" if question.purpose else "no purpose"
    return f"It was asked for the model {question.model}, with the class {decision.data_class}, {tags} and {purpose}. "


def _deciding(policy: CompiledPolicy | None, asked: Question, question: Question) -> list[str]:
    """What of the tags and the purpose it is denied for: with another value it would be allowed."""
    changes: dict[str, dict[str, Any]] = {}
    if question.tags:
        changes["without the tags"] = {"tags": ()}
    if question.purpose:
        changes["with another purpose"] = {"purpose": "-"}  # one that no rule can name
    return [
        words
        for words, change in changes.items()
        if decide_raised(policy, replace(asked, **change), replace(question, **change)).allowed
    ]


def _without(deciding: Sequence[str]) -> str:
    return f"{' or '.join(deciding).capitalize()} it would be allowed. " if deciding else ""


def _also(question: Question) -> str:
    """The headers that the caller sent besides the class."""
    sent = {"kasbah-data-tags": question.tags, "kasbah-purpose": question.purpose}
    if not (names := [name for name, value in sent.items() if value]):
        return ""
    return f" {' and '.join(names)} can be corrected too, if they do not say what the content really is."


def _as_which(decision: Decision) -> str:
    """Of a request that was raised, which of its two classes is denied."""
    if not decision.denied_as:
        return ""
    known = {DECLARED: f"{DECLARED} ({decision.declared_class})", RAISED: f"{RAISED} ({decision.data_class})"}
    return f"It is denied as it was {' and as it was '.join(known[name] for name in decision.denied_as)}. "


def _way_out(decision: Decision, found: Mapping[str, int]) -> str:
    other = "send another kasbah-data-class if the content really is of another class."
    if not found or decision.denied_as == (DECLARED,):
        return other
    long = " (unread: it is too long to look through, or sent as token ids)" if UNREAD in found else ""
    return (
        f"take out what was found in the text: {summary(found)}{long}. It is treated as {decision.data_class} for"
        " that, whatever kasbah-data-class says."
    )


def not_classified() -> Unavailable:
    """The classifier failed or took too long; what nobody looked through is sent nowhere."""
    return Unavailable(
        "The text could not be looked through for personal data, as your tenant's policy demands. Try again.",
        code="classifier_failed",
        retry_after=2,
    )


def model_not_found(name: str) -> NotFound:
    """Unknown, or not for this key: the two are not told apart."""
    return NotFound(
        f"The model {name!r} does not exist or you do not have access to it. GET /v1/models lists yours.",
        param="model",
        code="model_not_found",
    )


def no_capacity(name: str, closed: Mapping[str, str]) -> Unavailable:
    """No worker serves the model at a compliant site now; `closed`: those that take no jobs, slug by slug, and why."""
    why = "".join(f" Site {slug} is {state} and takes no new requests." for slug, state in sorted(closed.items()))
    return Unavailable(
        f"No worker serves the model {name!r} at a site where your request may be processed.{why} Try again.",
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
