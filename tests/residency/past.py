"""Requests of the past in the audit log, as the gateway records them, and many of them by one statement."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg

from kasbah.audit.services import ActorRef, Event, EventType, Model, Outcome, record
from kasbah.audit.services import Policy as PolicyFacts
from kasbah.common import rls
from kasbah.identity.models import Tenant
from kasbah.residency.models import Policy
from kasbah.residency.services import CompiledPolicy, Question, create_policy, decide
from tests.factories import SYSTEM


def remember(before: CompiledPolicy | None, question: Question, when: datetime, **changed: Any) -> str:
    """One request, decided by the policy of then; answers its id. `changed`: details, None to leave one out."""
    decision = decide(before, question)
    details: dict[str, Any] = {
        "data_class": decision.data_class,
        "class_asked": question.data_class,
        "at": question.at or int(when.timestamp()),
        "places": [f"{site.id} {site.slug} {site.jurisdiction}" for site in question.sites],
        "project": question.project,
        "tags": list(question.tags),
        "purpose": question.purpose,
        "sites": [str(site) for site in decision.sites],
        **changed,
    }
    request = f"req_{uuid4().hex}"
    event = Event(
        id=ident(when),
        time=when,
        type=EventType.INFERENCE_INTENT if decision.allowed else EventType.INFERENCE_DENIED,
        tenant_id=question.tenant,
        actor=ActorRef("api_key", "key", "api_key"),
        outcome=Outcome.PENDING if decision.allowed else Outcome.DENIED,
        reason="" if decision.allowed else "residency_denied",
        request_id=request,
        policy=PolicyFacts("p", 1, "allow" if decision.allowed else "deny", decision.rule),
        model=Model(question.model, "0" * 64),
        details={name: value for name, value in details.items() if value is not None},
    )
    with rls.tenant_scope(question.tenant):
        record(event)
    return request


def ident(when: datetime) -> UUID:
    """A UUIDv7 of this moment."""
    return UUID(int=(int(when.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | (uuid4().int & ((1 << 62) - 1)))


def draft(tenant: Tenant, document: dict[str, Any]) -> Policy:
    """A version that waits."""
    made: Policy = create_policy(SYSTEM, tenant, document)
    return made


MANY = """
INSERT INTO audit_intake (id, tenant_id, type, request_id, event)
SELECT
    (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(number %% 4096), 3, '0')
        || '8' || lpad(to_hex(number), 15, '0'))::uuid,
    %(tenant)s::uuid, 'inference.intent', 'req_' || number,
    convert_to(json_build_object(
        'version', 1, 'type', 'inference.intent', 'request_id', 'req_' || number,
        'time', to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'policy', json_build_object('id', 'p', 'version', 1, 'decision', 'allow', 'rule', 'all'),
        'model', json_build_object('name', CASE WHEN number %% 4 = 0 THEN 'qwen' ELSE 'mixtral' END, 'digest', 'd'),
        'details', json_build_object(
            'class_asked', CASE WHEN number %% 10 = 0 THEN 'confidential' ELSE 'internal' END,
            'at', extract(epoch FROM moment)::bigint, 'project', %(project)s::text, 'endpoint', '/v1/chat/completions',
            'places', json_build_array(%(place)s::text), 'sites', json_build_array(%(site)s::text),
            'filling', repeat('x', 300)))::text, 'UTF8')
FROM generate_series(1, %(count)s::int) AS number,
    LATERAL (SELECT now() - interval '6 days' + number * interval '6 days' / %(count)s::int AS moment) AS placed
"""


def remember_many(link: psycopg.Connection, tenant: UUID, place: str, count: int) -> None:
    """`count` allowed requests over six days, all at one site ("<id> <slug> <jurisdiction>"): every tenth of them
    confidential, every fourth for qwen."""
    facts = {"tenant": tenant, "count": count, "project": "", "place": place, "site": place.partition(" ")[0]}
    link.execute(MANY, facts)
