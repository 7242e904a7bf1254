"""From a request to a job that may run: who asks, for what, where it may be processed, and whether it is within limits.

One way, in this order; each step may refuse. Nothing is dispatched before the intent is committed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from uuid import UUID

from kasbah.audit import services as audit
from kasbah.audit.services import Event, EventType, content
from kasbah.audit.services.content import Place
from kasbah.common.errors import Forbidden, Invalid, KasbahError, QuotaExceeded, Unauthenticated
from kasbah.common.numbers import read_number
from kasbah.gateway import estimate, idempotency, keeping, refusals
from kasbah.gateway.bodies import base
from kasbah.gateway.cache import Facts
from kasbah.gateway.endpoints import Endpoint
from kasbah.gateway.exchange import Exchange
from kasbah.gateway.ledger import Entry
from kasbah.gateway.runtime import Runtime
from kasbah.identity.models import DataClass, Scope
from kasbah.identity.services import Principal, actor_of_key
from kasbah.metering.services import Reservation
from kasbah.residency.services import Decision, Question, decide_raised
from kasbah.residency.services.classification import UNREAD, raised, summary
from kasbah.serving.services import DeploymentRecord, JobRequest, NewJob

CLASSES = tuple(DataClass.values)
TAG = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
MAX_TAGS = 16
LONGEST_WINDOW = 300  # seconds


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for, understood but not yet allowed."""

    principal: Principal
    endpoint: Endpoint
    body: base.Body
    data: bytes = field(repr=False)  # the body as it came
    facts: Facts
    deployment: DeploymentRecord
    asked: Question  # as the client asked
    question: Question  # the same, or as the classifier raised it; then both must be allowed
    key: idempotency.Key | None
    resume_within: int  # seconds
    found: Mapping[str, int] = field(default_factory=dict)  # by the classifier: how often which kind of content

    @property
    def longest(self) -> int:
        """Tokens of the model's context."""
        return self.deployment.context


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request whose intent and job are committed."""

    wish: Wish
    decision: Decision
    reservation: Reservation
    job: NewJob
    intent: Event
    place: Place | None  # where content of it is kept; None: nowhere

    @property
    def may_keep(self) -> bool:
        """Whether the answer is to be kept for its idempotency key, which the policy must allow."""
        return self.wish.key is not None and self.place is not None and self.place.level == content.SEALED

    def site_slug(self, site_id: UUID) -> str:
        """Name of one of the compliant sites."""
        site = self.wish.facts.sites.get(site_id)
        return site.slug if site is not None else str(site_id)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer to it tells, the site excepted."""
        return [
            *((name.encode(), value.encode()) for name, value in self.reservation.headers.items()),
            (b"kasbah-policy-version", b"%d" % self.decision.policy_version),
            (b"kasbah-data-class", self.decision.data_class.encode()),
            (b"kasbah-model-digest", self.wish.deployment.model_digest.encode()),
            (b"kasbah-audit-receipt", audit.receipt(self.intent).encode()),
        ]


async def authenticate(runtime: Runtime, exchange: Exchange) -> Principal:
    """Who asks. Raises Unauthenticated, Forbidden, Unavailable."""
    scheme, _, text = exchange.header(b"authorization").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Unauthenticated("Send your API key as 'Authorization: Bearer KEY'.")
    principal = await runtime.principals.get(text.strip())
    exchange.notes["tenant"] = principal.tenant_slug
    exchange.notes["key"] = principal.key_id
    if Scope.INFERENCE.value not in principal.scopes:
        raise Forbidden("This API key may not be used for inference; create one with the scope 'inference'.")
    return principal


async def understand(runtime: Runtime, exchange: Exchange, endpoint: Endpoint) -> Wish:
    """Authenticate, read and check the request. Raises KasbahError."""
    principal = await authenticate(runtime, exchange)
    data = await exchange.body(runtime.room, principal.tenant_id)
    facts = await runtime.tenants.facts(principal.tenant_id)
    body, deployment = await runtime.reading.read(len(data), principal.tenant_id, lambda: _read(endpoint, data, facts))
    exchange.notes["model"] = deployment.name
    question = _question(exchange, principal, facts, deployment)
    return Wish(
        principal=principal,
        endpoint=endpoint,
        body=body,
        data=data,
        facts=facts,
        deployment=deployment,
        asked=question,
        question=question,
        resume_within=resume_within(exchange),
        key=_key(exchange, principal, endpoint, data),
    )


def _read(endpoint: Endpoint, data: bytes, facts: Facts) -> tuple[base.Body, DeploymentRecord]:
    """A body that its model can take."""
    body: base.Body = base.decode(endpoint.decoder, data)
    deployment = facts.deployments.get(body.model)
    if deployment is None:
        raise refusals.model_not_found(body.model)
    body.check(deployment.context)
    body.check_model(deployment.architecture)
    return body, deployment


# What a request says of itself beside its body: said differently, it is another request.
SAID = (b"kasbah-data-class", b"kasbah-data-tags", b"kasbah-purpose")


def _key(exchange: Exchange, principal: Principal, endpoint: Endpoint, data: bytes) -> idempotency.Key | None:
    said = {name.decode(): exchange.header(name).lower() for name in SAID if exchange.header(name)}
    return idempotency.read(principal, exchange.header(b"idempotency-key"), endpoint.path, said, data)


def resume_within(exchange: Exchange) -> int:
    """Seconds for which the engine goes on without its client (see resumption). Raises Invalid."""
    text = exchange.header(b"kasbah-resume-within") or "0"
    return read_number(text, 0, LONGEST_WINDOW, "kasbah-resume-within", "a number of seconds")


def _question(exchange: Exchange, principal: Principal, facts: Facts, deployment: DeploymentRecord) -> Question:
    data_class = exchange.header(b"kasbah-data-class").lower() or principal.data_class
    if data_class and data_class not in CLASSES:
        raise refusals.invalid_data_class(", ".join(CLASSES))
    tags = tuple(part.strip().lower() for part in exchange.header(b"kasbah-data-tags").split(",") if part.strip())
    if len(tags) > MAX_TAGS or not all(TAG.fullmatch(tag) for tag in tags):
        raise Invalid(f"kasbah-data-tags: at most {MAX_TAGS} tags such as personal, health.", param="kasbah-data-tags")
    purpose = exchange.header(b"kasbah-purpose").lower()
    if purpose and not TAG.fullmatch(purpose):
        raise Invalid("kasbah-purpose is one word such as support or research.", param="kasbah-purpose")
    sites = (facts.sites.get(site) for site in deployment.sites)
    return Question(
        tenant=principal.tenant_id,
        data_class=data_class,
        model=deployment.name,
        tags=tags,
        purpose=purpose,
        project=str(principal.project_id),
        sites=tuple(site.fact for site in sites if site is not None),
        at=int(time.time()),
    )


async def admit(runtime: Runtime, exchange: Exchange, wish: Wish) -> Admitted | None:
    """Decide, reserve, seal, commit. None: another request holds the idempotency key. Raises KasbahError."""
    wish = await _classified(runtime, wish)
    decision = decide_raised(wish.facts.policy, wish.asked, wish.question)
    if not decision.allowed:
        error = refusals.residency_denied(wish.facts.policy, decision, wish.asked, wish.question, wish.found)
        await _deny(runtime, exchange, wish, decision, error)
    if not runtime.dispatcher.capacity.ready(wish.deployment.id, decision.sites):
        sites = [wish.facts.sites[site] for site in decision.sites]
        closed = {site.slug: site.state for site in sites if not site.takes_jobs}
        raise refusals.no_capacity(wish.deployment.name, closed)
    limits = await runtime.tenants.limits(wish.principal)
    likely = estimate.of(wish.body, len(wish.data), wish.longest, limits.tokens_at_once, runtime.default_output)
    wish = replace(wish, body=likely.body)
    try:
        reservation = await runtime.meter.reserve(wish.principal, limits, likely.prompt, likely.completion)
    except QuotaExceeded as error:
        await _deny(runtime, exchange, wish, decision, error)
    try:
        job = runtime.dispatcher.prepare(_job_request(exchange, wish, decision))
        intent = _event(exchange, wish, decision, EventType.INFERENCE_INTENT, audit.Outcome.PENDING, job=job)
        claim = wish.key.claim(job.id) if wish.key is not None else None
        place = keeping.place(wish.facts.policy, wish.principal, decision, exchange.request_id)
        kept = await keeping.prompt(runtime, place, wish.data)
        intent = content.told(intent, kept)
        written = await runtime.ledger.write(Entry(event=intent, job=job, claim=claim, content=kept))
    except BaseException:
        await runtime.meter.release(reservation)
        raise
    if not written:
        await runtime.meter.release(reservation)
        return None
    return Admitted(wish, decision, reservation, job, intent, place)


async def _classified(runtime: Runtime, wish: Wish) -> Wish:
    """The wish as it is decided about: of a stricter class, and with more tags, if its policy's classifier finds
    something in what the engine would be given. Raises Unavailable."""
    policy = wish.facts.policy
    if policy is None or (classifier := policy.classifier) is None:
        return wish
    found = await runtime.classifying.look(wish.body.for_engine(), classifier.detect, wish.principal.tenant_id)
    if not wish.body.readable:
        found[UNREAD] = 1
    return replace(wish, question=raised(wish.question, policy, found), found=found)


def _job_request(exchange: Exchange, wish: Wish, decision: Decision) -> JobRequest:
    principal = wish.principal
    return JobRequest(
        tenant_id=principal.tenant_id,
        project_id=principal.project_id,
        api_key_id=principal.key_id,
        deployment_id=wish.deployment.id,
        model_digest=wish.deployment.model_digest,
        request_id=exchange.request_id,
        endpoint=wish.endpoint.path,
        stream=wish.body.streams,
        data_class=decision.data_class,
        policy=decision.policy,
        sites=decision.sites,
        body=wish.body.for_engine(),
    )


async def _deny(runtime: Runtime, exchange: Exchange, wish: Wish, decision: Decision, error: KasbahError) -> NoReturn:
    """Record the denial, then raise it; a denial that cannot be recorded is a 503."""
    event = _event(exchange, wish, decision, EventType.INFERENCE_DENIED, audit.Outcome.DENIED, reason=error.code)
    await runtime.ledger.write(Entry(event=event))
    error.headers["kasbah-policy-version"] = str(decision.policy_version)
    error.headers["kasbah-data-class"] = decision.data_class
    error.headers["kasbah-audit-receipt"] = audit.receipt(event)
    raise error


def _event(
    exchange: Exchange,
    wish: Wish,
    decision: Decision,
    kind: EventType,
    outcome: audit.Outcome,
    *,
    job: NewJob | None = None,
    reason: str = "",
) -> Event:
    question = wish.question
    details: dict[str, Any] = {
        "data_class": decision.data_class,
        "endpoint": wish.endpoint.path,
        "project": question.project,
        "stream": wish.body.streams,
        # With tags and purpose all that was asked, so that a simulation can ask it again (residency.simulation).
        "class_asked": wish.asked.data_class,
        "at": question.at,
        "places": [f"{site.id} {site.slug} {site.jurisdiction} {site.zone}".rstrip() for site in question.sites],
    }
    if wish.question.tags:
        details["tags"] = list(wish.question.tags)
    if wish.asked.tags != question.tags:
        details["tags_asked"] = list(wish.asked.tags)
    if wish.facts.policy is not None and wish.facts.policy.classifier is not None:
        details["looked_for"] = list(wish.facts.policy.classifier.detect)
    if wish.found:
        details["classified"] = summary(wish.found)
    if wish.question.purpose:
        details["purpose"] = wish.question.purpose
    details["sites"] = [str(site) for site in decision.sites]
    details["excluded"] = [f"{item.site} {item.rule} {item.reading}".rstrip() for item in decision.reasons]
    if decision.denied_as:
        details["denied_as"] = list(decision.denied_as)
    return Event(
        type=kind,
        tenant_id=wish.principal.tenant_id,
        actor=actor_of_key(wish.principal).ref,
        outcome=outcome,
        resource=audit.Resource("job", str(job.id)) if job is not None else None,
        reason=reason,
        request_id=exchange.request_id,
        policy=audit.Policy(
            decision.policy_id, decision.policy_version, "allow" if decision.allowed else "deny", decision.rule
        ),
        model=audit.Model(wish.deployment.name, wish.deployment.model_digest),
        details=details,
    )
