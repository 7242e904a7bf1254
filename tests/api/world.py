"""One of everything that the management API shows, and a walk over all its endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from inference_worker.contract.messages import Receipt, signed
from inference_worker.contract.signing import Purpose, Signer
from kasbah.audit.services.forwarding import Forwarder, create_forwarder
from kasbah.common import rls
from kasbah.common.ids import uuid7
from kasbah.identity.models import Membership, Role, Scope, User
from kasbah.identity.services import invite
from kasbah.metering.models import Usage
from kasbah.metering.services import set_limit
from kasbah.registry.models import Model, ModelVersion, Stage
from kasbah.residency.models import SigningKey, Site
from kasbah.residency.services import create_policy, create_site, erasures, pruning
from kasbah.residency.services.holds import Reach, place_hold
from kasbah.serving.models import Deployment, Job, JobState, Worker
from kasbah.serving.services import create_deployment, create_enrolment_token, grant
from tests import factories
from tests.audit.receivers import Authority

POLICY = {
    "version": 1,
    "rules": [{"id": "all", "effect": "allow", "data_classes": ["public"], "models": ["*"], "sites": ["*"]}],
}


CERTIFICATE = Authority().pem
BASELINE = {"version": 1, "rules": [{"id": "none", "effect": "deny", "data_classes": ["secret"]}]}


@dataclass
class Platform:
    """What belongs to no tenant. `ids`: the object that each platform collection's paths name."""

    site: Site
    version: ModelVersion
    deployment: Deployment
    worker: Worker
    signer: Signer
    ids: dict[str, str]


@dataclass
class Estate:
    """A tenant with one of everything. `ids`: the object that each of its collections' paths name."""

    household: factories.Household
    ids: dict[str, str]
    request_id: str
    people: dict[str, User] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Of the tenant."""
        return self.household.tenant.slug


def make_platform() -> Platform:
    """A site, a version, a deployment, a worker, a token and a user."""
    site = create_site(factories.SYSTEM, factories.slug("site"), "A site", "FR", "redis://127.0.0.1:1/0")
    model = Model.objects.create(name=factories.slug("model"), publisher="P", licence="Apache-2.0", family="mixtral")
    manifest = [{"path": "config.json", "size": 2, "sha256": "0" * 64}]
    version = ModelVersion.objects.create(
        model=model, digest=uuid7().hex * 2, manifest=manifest, size=2, stage=Stage.APPROVED
    )
    deployment = create_deployment(factories.SYSTEM, factories.slug("chat"), version, [site])
    signer = Signer(Ed25519PrivateKey.generate())
    public = signer.public.public_bytes_raw()
    worker = Worker.objects.create(site=site, name="node-1", public_key=public, state="enrolled")
    token = create_enrolment_token(factories.SYSTEM, site).row
    ids = {
        "sites": site.id,
        "models": model.id,
        "versions": version.id,
        "deployments": deployment.id,
        "workers": worker.id,
        "enrolment-tokens": token.id,
        "signing-keys": SigningKey.objects.get(state="current").id,
        "users": factories.user().id,
        "audit-forwarders": make_forwarder().id,
        "baseline-policies": create_policy(factories.SYSTEM, None, BASELINE).id,
    }
    return Platform(site, version, deployment, worker, signer, {name: str(ident) for name, ident in ids.items()})


def make_forwarder() -> Forwarder:
    """A destination of the audit log; nobody listens there."""
    return create_forwarder(
        factories.SYSTEM.ref,
        name=factories.slug("soc"),
        kind="syslog_tls",
        address="127.0.0.1:1",
        ca_certificate=CERTIFICATE,
    )


def make_estate(platform: Platform) -> Estate:
    """A tenant in which every collection has an object."""
    household = factories.household()
    tenant = household.tenant
    policy = factories.active_policy(tenant, POLICY)
    allowed = grant(factories.SYSTEM, tenant, platform.deployment)
    limit = set_limit(factories.SYSTEM, tenant, scope="project", subject_id=household.project.id, requests_per_minute=9)
    hold = place_hold(factories.SYSTEM, tenant, Reach(request_id="req_1"), reason="R", reference="1")
    job = make_job(household, platform)
    factories.content(household.project, request_id=job.request_id)
    doomed = factories.content(household.project).request_id
    wish = erasures.Wish(request_id=doomed)
    asker = factories.fresh(factories.user(is_platform_admin=True))
    erasure = erasures.request_erasure(asker, tenant, wish, basis="authority", reason="R")
    with rls.tenant_scope(tenant.id):
        Usage.objects.create(
            id=job.id,
            tenant=tenant,
            project=household.project,
            api_key=household.key,
            deployment=platform.deployment.name,
            endpoint=job.endpoint,
            prompt_tokens=3,
            completion_tokens=5,
        )
        member = Membership.objects.get(user=household.admin)
    ids = {
        "projects": household.project.id,
        "members": member.id,
        "invitations": invite(factories.SYSTEM, tenant, "somebody@example.org", Role.DEVELOPER).id,
        "api-keys": household.key.id,
        "policies": policy.id,
        "grants": allowed.id,
        "limits": limit.id,
        "legal-holds": hold.id,
        "erasures": erasure.id,
        "pruning-policies": pruning.request_pruning(asker, tenant, 400, reason="R").id,
        "usage": job.id,
        "jobs": job.id,
        "audit-events": factories.events_of(tenant.id)[0]["id"],
    }
    return Estate(household, {name: str(ident) for name, ident in ids.items()}, job.request_id)


def make_job(household: factories.Household, platform: Platform) -> Job:
    """A job that ended well, with the worker's receipt."""
    ident, stamp = uuid7(), "2026-01-02T03:04:05.000006Z"
    receipt = Receipt(
        job=str(ident),
        attempt=1,
        tenant=str(household.tenant.id),
        ticket_sha256="1" * 64,
        policy="p@1",
        site=str(platform.site.id),
        worker=str(platform.worker.id),
        engine="vllm 0",
        model_digest=platform.version.digest,
        prompt_tokens=3,
        completion_tokens=5,
        output_commitment="2" * 64,
        outcome="succeeded",
        started=stamp,
        finished=stamp,
    )
    with rls.tenant_scope(household.tenant.id):
        return Job.objects.create(
            id=ident,
            tenant=household.tenant,
            project=household.project,
            api_key=household.key,
            deployment=platform.deployment,
            request_id=f"req_{uuid7().hex}",
            endpoint="/v1/chat/completions",
            stream=False,
            data_class="public",
            policy="p@1",
            sites=[str(platform.site.id)],
            state=JobState.SUCCEEDED,
            site=platform.site,
            worker_id=platform.worker.id,
            owner="web",
            lease_until=timezone.now(),
            receipt=signed(platform.signer, Purpose.RECEIPT, receipt),
        )


def make_people(estate: Estate) -> dict[str, User]:
    """A user of each role in the estate, the platform's administrator, and one of another tenant."""
    tenant = estate.household.tenant
    people = {"platform_admin": factories.user(is_platform_admin=True), "stranger": factories.household().admin}
    for role in Role:
        people[role.value] = factories.user()
        factories.membership(tenant, people[role.value], role)
    return people


def make_keys(estate: Estate) -> dict[str, str]:
    """A key of each management scope, with the role of an administrator, and one for inference alone."""
    scopes = {"inference_key": Scope.INFERENCE, "read_key": Scope.MANAGEMENT_READ, "manage_key": Scope.MANAGEMENT}
    project = estate.household.project
    return {
        name: factories.api_key(project, scopes=(scope,), role=Role.TENANT_ADMIN)[1] for name, scope in scopes.items()
    }


@dataclass(frozen=True)
class Endpoint:
    """One method of one path, as the router has it: `/api/tenants/<tenant>/jobs/<pk>/`."""

    method: str
    path: str
    view: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def url(self, **values: str) -> str:
        """The path with its placeholders filled."""
        return re.sub(r"<(\w+)>", lambda found: values[found[1]], self.path)

    @property
    def collection(self) -> str:
        """The word before the object's id."""
        return re.findall(r"/([\w-]+)/<pk>/", self.path)[0]


def endpoints() -> list[Endpoint]:
    """Every method of every path that Django serves, from the URL patterns themselves."""
    found = [
        Endpoint(method.upper(), path, view)
        for path, view in _patterns(get_resolver().url_patterns, "/")
        for method in _methods(view)
    ]
    return sorted(found, key=str)


def _patterns(patterns: list[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        path = prefix + re.sub(r"<\w+:(\w+)>", r"<\1>", str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield path, pattern.callback


def _methods(view: Any) -> list[str]:
    if actions := getattr(view, "actions", None):
        return [method for method in actions if method != "head"]
    cls = getattr(view, "cls", None) or view.view_class
    names = getattr(view, "view_initkwargs", {}).get("http_method_names", cls.http_method_names)
    return [method for method in ("get", "post", "put", "patch", "delete") if method in names and hasattr(cls, method)]


def random_id() -> str:
    """An id that nothing has."""
    return str(UUID(int=uuid7().int ^ 1))
