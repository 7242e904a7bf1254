"""Every entrance of the platform, and whether what comes through it is on record.

An entrance is an HTTP method and path, a Celery task or a command. tests/audit/test_everything_audited.py walks them
all: one that is in neither table fails it, and those that are said to be recorded are called to see it.
"""

from __future__ import annotations

from collections.abc import Mapping

from kasbah.audit.services import EventType as E

# The events that each may leave.
AUDITED: Mapping[str, frozenset[E]] = {
    name: frozenset(events)
    for name, *events in (
        ("GET /api/audit-events/", E.AUDIT_READ),
        ("GET /api/audit-events/<uuid:pk>/", E.AUDIT_READ),
        ("GET /api/tenants/<slug:tenant>/audit-events/", E.AUDIT_READ),
        ("GET /api/tenants/<slug:tenant>/audit-events/<uuid:pk>/", E.AUDIT_READ),
        ("POST /api/session/", E.LOGIN_SUCCEEDED, E.LOGIN_FAILED),
        ("DELETE /api/session/", E.LOGOUT),
        ("POST /api/tenants/", E.TENANT_CREATED),
        ("PATCH /api/tenants/<slug:tenant>/", E.TENANT_CHANGED),
        ("POST /api/tenants/<slug:tenant>/projects/", E.PROJECT_CREATED),
        ("PATCH /api/tenants/<slug:tenant>/projects/<uuid:pk>/", E.PROJECT_CHANGED),
        ("POST /api/tenants/<slug:tenant>/members/", E.MEMBER_ADDED),
        ("PATCH /api/tenants/<slug:tenant>/members/<uuid:pk>/", E.MEMBER_ROLE_CHANGED),
        ("DELETE /api/tenants/<slug:tenant>/members/<uuid:pk>/", E.MEMBER_REMOVED),
        ("POST /api/tenants/<slug:tenant>/api-keys/", E.KEY_CREATED),
        ("POST /api/tenants/<slug:tenant>/api-keys/<uuid:pk>/revoke/", E.KEY_REVOKED),
        ("POST /api/users/", E.USER_CREATED),
        ("PATCH /api/users/<uuid:pk>/", E.USER_CHANGED),
        ("POST /api/versions/", E.MODEL_REGISTERED),
        ("POST /api/versions/<uuid:pk>/approve/", E.MODEL_APPROVED),
        ("POST /api/sites/", E.SITE_CREATED),
        ("PATCH /api/sites/<uuid:pk>/", E.SITE_CHANGED),
        ("POST /api/tenants/<slug:tenant>/policies/", E.POLICY_CREATED),
        ("POST /api/tenants/<slug:tenant>/policies/<uuid:pk>/activate/", E.POLICY_ACTIVATED),
        ("POST /api/tenants/<slug:tenant>/limits/", E.LIMIT_SET),
        ("DELETE /api/tenants/<slug:tenant>/limits/<uuid:pk>/", E.LIMIT_REMOVED),
        ("POST /api/deployments/", E.DEPLOYMENT_CREATED),
        ("PATCH /api/deployments/<uuid:pk>/", E.DEPLOYMENT_CHANGED),
        ("POST /api/tenants/<slug:tenant>/grants/", E.DEPLOYMENT_GRANTED),
        ("DELETE /api/tenants/<slug:tenant>/grants/<uuid:pk>/", E.DEPLOYMENT_GRANT_REVOKED),
        ("POST /api/enrolment-tokens/", E.ENROLMENT_TOKEN_CREATED),
        ("POST /api/workers/<uuid:pk>/drain/", E.WORKER_DRAINED),
        ("POST /api/workers/<uuid:pk>/resume/", E.WORKER_RESUMED),
        ("POST /api/workers/<uuid:pk>/revoke/", E.WORKER_REVOKED),
        ("POST /v1/chat/completions", E.INFERENCE_INTENT, E.INFERENCE_OUTCOME, E.INFERENCE_DENIED),
        ("POST /v1/completions", E.INFERENCE_INTENT, E.INFERENCE_OUTCOME, E.INFERENCE_DENIED),
        ("POST /v1/embeddings", E.INFERENCE_INTENT, E.INFERENCE_OUTCOME, E.INFERENCE_DENIED),
        ("POST /tokenize", E.INFERENCE_INTENT, E.INFERENCE_OUTCOME, E.INFERENCE_DENIED),
        (
            "task serving.collect_reports",
            E.WORKER_ENROLLED,
            E.WORKER_ENROLMENT_REFUSED,
            E.WORKER_LOST,
            E.WORKER_RESUMED,
            E.INFERENCE_REFUSED,
        ),
        ("task serving.sweep_jobs", E.INFERENCE_OUTCOME),
        ("command createtenant", E.TENANT_CREATED),
        ("command createproject", E.PROJECT_CREATED),
        ("command createuser", E.USER_CREATED),
        ("command addmember", E.MEMBER_ADDED),
        ("command createkey", E.KEY_CREATED),
        ("command revokekey", E.KEY_REVOKED),
        ("command registermodel", E.MODEL_REGISTERED),
        ("command approveversion", E.MODEL_APPROVED),
        ("command createsite", E.SITE_CREATED),
        ("command putpolicy", E.POLICY_CREATED, E.POLICY_ACTIVATED),
        ("command activatepolicy", E.POLICY_ACTIVATED),
        ("command createdeployment", E.DEPLOYMENT_CREATED),
        ("command grant", E.DEPLOYMENT_GRANTED),
        ("command enroltoken", E.ENROLMENT_TOKEN_CREATED),
        ("command workers", E.WORKER_DRAINED, E.WORKER_RESUMED, E.WORKER_REVOKED),
        (
            "command bootstrap_demo",
            E.TENANT_CREATED,
            E.PROJECT_CREATED,
            E.USER_CREATED,
            E.MEMBER_ADDED,
            E.SITE_CREATED,
            E.SITE_CHANGED,
            E.MODEL_REGISTERED,
            E.MODEL_APPROVED,
            E.DEPLOYMENT_CREATED,
            E.DEPLOYMENT_GRANTED,
            E.POLICY_CREATED,
            E.POLICY_ACTIVATED,
            E.KEY_CREATED,
            E.ENROLMENT_TOKEN_CREATED,
        ),
    )
}

STATIC = "the same for everybody; touches nothing of a tenant"
READS = "shows configuration to those who may see it; no content of requests, and nothing changes"
COUNTS = "shows what is metered of requests, without their content; nothing changes"
COMPUTES = "computes from what was sent or is configured; nothing is kept and nothing changes"
SELF = "tells the caller about himself"
OWN = "gives a client the rest of its own answer, to the same key alone; the request and its end are on record"
PROOF = "gives the tenant its own proof of a request that is on record"

# Why each leaves no event.
UNRECORDED: Mapping[str, str] = {
    "* /api/": STATIC,
    "* /api/schema/": STATIC,
    "* /api/docs/": STATIC,
    "GET /healthz": STATIC,
    "GET /readyz": STATIC,
    "GET /api/me/": SELF,
    "GET /api/session/": SELF,
    "GET /v1/models": READS,
    "GET /v1/models/": READS,
    "GET /v1/streams/": OWN,
    "GET /api/tenants/": READS,
    "GET /api/tenants/<slug:tenant>/": READS,
    "GET /api/tenants/<slug:tenant>/projects/": READS,
    "GET /api/tenants/<slug:tenant>/projects/<uuid:pk>/": READS,
    "GET /api/tenants/<slug:tenant>/members/": READS,
    "GET /api/tenants/<slug:tenant>/members/<uuid:pk>/": READS,
    "GET /api/tenants/<slug:tenant>/api-keys/": READS,
    "GET /api/tenants/<slug:tenant>/api-keys/<uuid:pk>/": READS,
    "GET /api/users/": READS,
    "GET /api/users/<uuid:pk>/": READS,
    "GET /api/models/": READS,
    "GET /api/models/<uuid:pk>/": READS,
    "GET /api/versions/": READS,
    "GET /api/versions/<uuid:pk>/": READS,
    "GET /api/sites/": READS,
    "GET /api/sites/<uuid:pk>/": READS,
    "GET /api/tenants/<slug:tenant>/policies/": READS,
    "GET /api/tenants/<slug:tenant>/policies/<uuid:pk>/": READS,
    "POST /api/tenants/<slug:tenant>/policies/validate/": COMPUTES,
    "POST /api/tenants/<slug:tenant>/policies/decide/": COMPUTES,
    "GET /api/tenants/<slug:tenant>/limits/": READS,
    "GET /api/tenants/<slug:tenant>/limits/<uuid:pk>/": READS,
    "GET /api/tenants/<slug:tenant>/usage/": COUNTS,
    "GET /api/tenants/<slug:tenant>/usage/<uuid:pk>/": COUNTS,
    "GET /api/tenants/<slug:tenant>/usage/summary/": COUNTS,
    "GET /api/deployments/": READS,
    "GET /api/deployments/<uuid:pk>/": READS,
    "GET /api/tenants/<slug:tenant>/grants/": READS,
    "GET /api/tenants/<slug:tenant>/grants/<uuid:pk>/": READS,
    "GET /api/workers/": READS,
    "GET /api/workers/<uuid:pk>/": READS,
    "GET /api/enrolment-tokens/": READS,
    "GET /api/enrolment-tokens/<uuid:pk>/": READS,
    "GET /api/tenants/<slug:tenant>/jobs/": COUNTS,
    "GET /api/tenants/<slug:tenant>/jobs/<uuid:pk>/": COUNTS,
    "GET /api/receipts/<str:request_id>/": PROOF,
    "task serving.expire_rows": "removes answers whose time to be repeated is over; the requests are on record",
    "command checkpolicy": COMPUTES,
    "command decide": COMPUTES,
    "command jobs": COUNTS,
    "command serve": "serves; each request is classified by its own path",
}
