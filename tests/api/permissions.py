"""Who may do what, for every method of every path: the table that the tests hold the API to."""

from __future__ import annotations

MEMBERS = {"tenant_admin", "developer", "operator", "auditor"}
KEYS = {"read_key", "manage_key"}
EVERYBODY = {"anonymous", "platform_admin", "stranger", "inference_key"} | MEMBERS | KEYS
KNOWN = EVERYBODY - {"anonymous"}
ROOT = {"platform_admin"}
ADMIN = ROOT | {"tenant_admin", "manage_key"}
READERS = ROOT | MEMBERS | KEYS
CATALOGUE = READERS | {"stranger"}
DEVELOPERS = ADMIN | {"developer"}

T = "/api/tenants/<tenant>"
# What is allowed; everybody else gets 401 (anonymous), 404 (strangers, in a tenant) or 403.
ALLOWED: dict[str, set[str]] = {
    "GET /api/": EVERYBODY,
    "GET /api/docs/": EVERYBODY,
    "GET /api/schema/": EVERYBODY,
    "GET /api/me/": KNOWN,
    "GET /api/session/": KNOWN,
    "POST /api/session/": EVERYBODY,
    "DELETE /api/session/": KNOWN,
    "GET /api/tenants/": KNOWN,
    "POST /api/tenants/": ROOT,
    f"GET {T}/": READERS,
    f"PATCH {T}/": ROOT,
    f"GET {T}/projects/": READERS,
    f"POST {T}/projects/": ADMIN,
    f"GET {T}/projects/<pk>/": READERS,
    f"PATCH {T}/projects/<pk>/": ADMIN,
    f"GET {T}/members/": ROOT | {"tenant_admin", "auditor"} | KEYS,
    f"POST {T}/members/": ADMIN,
    f"GET {T}/members/<pk>/": ROOT | {"tenant_admin", "auditor"} | KEYS,
    f"PATCH {T}/members/<pk>/": ADMIN,
    f"DELETE {T}/members/<pk>/": ADMIN,
    f"GET {T}/api-keys/": READERS,
    f"POST {T}/api-keys/": DEVELOPERS,
    f"GET {T}/api-keys/<pk>/": READERS,
    f"POST {T}/api-keys/<pk>/revoke/": DEVELOPERS,
    f"GET {T}/policies/": READERS,
    f"POST {T}/policies/": ADMIN,
    f"POST {T}/policies/validate/": READERS - {"read_key"},
    f"POST {T}/policies/decide/": READERS - {"read_key"},
    f"GET {T}/policies/<pk>/": READERS,
    f"POST {T}/policies/<pk>/activate/": ADMIN,
    f"GET {T}/grants/": READERS,
    f"POST {T}/grants/": ROOT,
    f"GET {T}/grants/<pk>/": READERS,
    f"DELETE {T}/grants/<pk>/": ROOT,
    f"GET {T}/limits/": READERS,
    f"POST {T}/limits/": ADMIN,
    f"GET {T}/limits/<pk>/": READERS,
    f"DELETE {T}/limits/<pk>/": ADMIN,
    f"GET {T}/usage/": READERS,
    f"GET {T}/usage/summary/": READERS,
    f"GET {T}/usage/<pk>/": READERS,
    f"GET {T}/jobs/": READERS,
    f"GET {T}/jobs/<pk>/": READERS,
    f"GET {T}/audit-events/": {"tenant_admin", "auditor"} | KEYS,
    f"GET {T}/audit-events/<pk>/": {"tenant_admin", "auditor"} | KEYS,
    "GET /api/audit-events/": ROOT,
    "GET /api/audit-events/<pk>/": ROOT,
    "GET /api/receipts/<request_id>/": READERS | {"inference_key"},
    "GET /api/users/": ROOT,
    "POST /api/users/": ROOT,
    "GET /api/users/<pk>/": ROOT,
    "PATCH /api/users/<pk>/": ROOT,
    "GET /api/sites/": CATALOGUE,
    "POST /api/sites/": ROOT,
    "GET /api/sites/<pk>/": CATALOGUE,
    "PATCH /api/sites/<pk>/": ROOT,
    "GET /api/models/": CATALOGUE,
    "GET /api/models/<pk>/": CATALOGUE,
    "GET /api/versions/": CATALOGUE,
    "POST /api/versions/": ROOT,
    "GET /api/versions/<pk>/": CATALOGUE,
    "POST /api/versions/<pk>/approve/": ROOT,
    "GET /api/deployments/": CATALOGUE,
    "POST /api/deployments/": ROOT,
    "GET /api/deployments/<pk>/": READERS,  # whose tenant it is granted to
    "PATCH /api/deployments/<pk>/": ROOT,
    "GET /api/workers/": ROOT,
    "GET /api/workers/<pk>/": ROOT,
    "POST /api/workers/<pk>/drain/": ROOT,
    "POST /api/workers/<pk>/resume/": ROOT,
    "POST /api/workers/<pk>/revoke/": ROOT,
    "GET /api/enrolment-tokens/": ROOT,
    "POST /api/enrolment-tokens/": ROOT,
    "GET /api/enrolment-tokens/<pk>/": ROOT,
}
