"""What `make demo` needs in the database, made step by step; a second time finds each thing and leaves it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from kasbah.common import rls
from kasbah.common.errors import Unauthenticated
from kasbah.identity import services as identity
from kasbah.identity.models import ApiKey, Project, Role, Scope, Tenant, User
from kasbah.identity.services import Actor
from kasbah.registry import services as registry
from kasbah.registry.models import ModelVersion, Stage
from kasbah.residency import services as residency
from kasbah.residency.models import Policy, PolicyState, Site
from kasbah.serving import services as serving
from kasbah.serving.models import Deployment, DeploymentGrant, Worker, WorkerState

TENANT = PROJECT = "demo"
SITE = "local"
MODEL = "smollm2-moe"
KEY_NAME = "demo"
ADMIN_EMAIL = "admin@demo.local"
ALLOWED = ["public", "internal", "confidential"]
MODEL_FACTS = {
    "publisher": "Hugging Face (HuggingFaceTB); mixture of experts made on this machine",
    "licence": "Apache-2.0",
    "family": "mixtral",
}


@dataclass
class Wanted:
    """What the person who starts it may choose. `new_key`: issue one although one is there."""

    jurisdiction: str
    broker_url: str = field(repr=False)
    model_dir: Path | None
    key_file: Path | None
    new_key: bool = False


def bootstrap(actor: Actor, wanted: Wanted, note: Callable[[str], None]) -> dict[str, Any]:
    """Make what is missing. Answers names, and secrets that were made now. Raises KasbahError, CommandError."""
    tenant, project = _tenant(actor)
    password = _administrator(actor, tenant)
    site = _site(actor, wanted)
    deployment = _deployment(actor, site, wanted, note)
    policy = _policy(actor, tenant)
    _grant(actor, tenant, deployment)
    facts: dict[str, Any] = {
        "tenant": tenant.slug,
        "project": project.slug,
        "site": site.slug,
        "jurisdiction": site.jurisdiction,
        "model": deployment.name,
        "model_digest": deployment.model_version.digest,
        "policy_version": policy.version,
        "admin_email": ADMIN_EMAIL,
        "admin_password": password,
        "api_key": _api_key(actor, tenant, project, wanted),
        "enrol_token": _enrolment_token(actor, site),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _tenant(actor: Actor) -> tuple[Tenant, Project]:
    with rls.platform_scope():
        tenant = Tenant.objects.filter(slug=TENANT).first()
    tenant = tenant or identity.create_tenant(actor, slug=TENANT, name="Demonstration")
    with rls.tenant_scope(tenant.id):
        project = Project.objects.filter(tenant=tenant, slug=PROJECT).first()
    if project is None:
        project = identity.create_project(
            actor, tenant, slug=PROJECT, name="Demonstration", default_data_class="internal"
        )
    return tenant, project


def _administrator(actor: Actor, tenant: Tenant) -> str | None:
    """The password when the account is new."""
    user, password = User.objects.filter(email=ADMIN_EMAIL).first(), None
    if user is None:
        password = secrets.token_urlsafe(18)
        user = identity.create_user(
            actor, email=ADMIN_EMAIL, password=password, name="Demonstration", is_platform_admin=True
        )
    with rls.tenant_scope(tenant.id):
        member = tenant.memberships.filter(user=user).exists()
    if not member:
        identity.add_member(actor, tenant, user, Role.TENANT_ADMIN)
    return password


def _site(actor: Actor, wanted: Wanted) -> Site:
    site = Site.objects.filter(slug=SITE).first()
    if site is None:
        return residency.create_site(
            actor,
            slug=SITE,
            name="This machine",
            jurisdiction=wanted.jurisdiction,
            broker_url=wanted.broker_url,
        )
    if residency.broker_url(site) != wanted.broker_url:
        site = residency.update_site(actor, site, broker_url=wanted.broker_url)
    return site


def _policy(actor: Actor, tenant: Tenant) -> Policy:
    """The active policy; one that a person activated is left as it is."""
    with rls.tenant_scope(tenant.id):
        active = Policy.objects.filter(tenant=tenant, state=PolicyState.ACTIVE).first()
    if active is not None:
        return active
    rule = {"id": "this-machine", "effect": "allow", "data_classes": ALLOWED, "models": [MODEL], "sites": [SITE]}
    document = {"version": 1, "description": "Demonstration: this machine alone, nothing secret.", "rules": [rule]}
    policy: Policy = residency.create_policy(actor, tenant, document)
    return residency.request_activation(actor, policy, bootstrap=True)


def _deployment(actor: Actor, site: Site, wanted: Wanted, note: Callable[[str], None]) -> Deployment:
    found = Deployment.objects.select_related("model_version").filter(name=MODEL).first()
    if found is not None:
        return found  # nothing is hashed again: the worker verifies every file before it loads it
    version = _version(actor, wanted, note)
    # float32: in less, the mixture's greedy answers would no longer be the dense model's, token for token.
    return serving.create_deployment(
        actor, name=MODEL, model_version=version, sites=[site], engine_settings={"dtype": "float32"}
    )


def _version(actor: Actor, wanted: Wanted, note: Callable[[str], None]) -> ModelVersion:
    if wanted.model_dir is None:
        raise CommandError("--model-dir: name the folder of the demo model, which `make demo` builds.")

    def progress(at: registry.Progress) -> None:
        note(f"{at.step} {at.done * 100 // max(at.total, 1)} %")

    version = registry.register_version(actor, name=MODEL, folder=wanted.model_dir, progress=progress, **MODEL_FACTS)
    if version.stage == Stage.SCANNED:
        version = registry.approve(actor, version, bootstrap=True)
    return version


def _grant(actor: Actor, tenant: Tenant, deployment: Deployment) -> None:
    with rls.tenant_scope(tenant.id):
        granted = DeploymentGrant.objects.filter(tenant=tenant, deployment=deployment).exists()
    if not granted:
        serving.grant(actor, tenant, deployment)


def _enrolment_token(actor: Actor, site: Site) -> str | None:
    """A token when no worker could start without one."""
    if Worker.objects.filter(site=site).exclude(state=WorkerState.REVOKED).exists():
        return None
    return serving.create_enrolment_token(actor, site, preapproved=True).text


def _api_key(actor: Actor, tenant: Tenant, project: Project, wanted: Wanted) -> str | None:
    """The key's text when it is new or in the file; its file is the only place that keeps it."""
    file = wanted.key_file
    if file is not None and not wanted.new_key and (kept := _kept_key(tenant, file)) is not None:
        return kept
    with rls.tenant_scope(tenant.id):
        there = ApiKey.objects.filter(tenant=tenant, name=KEY_NAME, revoked_at=None).exists()
    if file is None and there and not wanted.new_key:
        return None
    text = identity.create_api_key(
        actor,
        tenant,
        project,
        name=KEY_NAME,
        scopes=[Scope.INFERENCE.value, Scope.MANAGEMENT_READ.value],
    ).text
    if file is not None:
        _keep(file, text)
    return text


def _kept_key(tenant: Tenant, file: Path) -> str | None:
    """The key in `file` when it is still good. Raises CommandError."""
    try:
        text = file.read_text(encoding="ascii").strip()
        principal = identity.authenticate_key(text)
    except (FileNotFoundError, UnicodeDecodeError, Unauthenticated):
        return None
    except OSError as error:
        raise CommandError(f"--api-key-file: cannot read {file}: {error.strerror or error}") from error
    return text if principal.tenant_id == tenant.id else None


def _keep(file: Path, text: str) -> None:
    try:
        file.touch(mode=0o600, exist_ok=True)
        file.chmod(0o600)
        file.write_text(text + "\n", encoding="ascii")
    except OSError as error:
        raise CommandError(f"--api-key-file: cannot write {file}: {error.strerror or error}") from error
