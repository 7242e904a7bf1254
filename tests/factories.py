"""Rows for tests, made without services and their authorisation. Each name is new unless it is given.

Call inside a test that has the database; each opens the scope it needs by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from kasbah.common import rls
from kasbah.common.ids import uuid7
from kasbah.identity.models import ApiKey, Membership, Project, Role, Scope, Tenant, User
from kasbah.identity.services import Actor, Principal, actor_of_user, keys, system

SYSTEM: Actor = system("tests", "test")


@dataclass(frozen=True)
class Household:
    """A tenant with all that a request needs: one project, one administrator, one API key and its text."""

    tenant: Tenant
    project: Project
    admin: User
    key: ApiKey
    key_text: str

    @property
    def principal(self) -> Principal:
        """What the key stands for."""
        return Principal(
            self.key.id,
            self.key.name,
            self.tenant.id,
            self.tenant.slug,
            self.project.id,
            frozenset(self.key.scopes),
            self.key.role,
            self.key.default_data_class or self.project.default_data_class or self.tenant.default_data_class,
            self.key.expires_at,
        )


def slug(kind: str) -> str:
    """A name that no other test has."""
    return f"{kind}-{uuid7().hex[-12:]}"


def tenant(name: str = "", *, active: bool = True) -> Tenant:
    """A tenant."""
    with rls.platform_scope():
        return Tenant.objects.create(slug=name or slug("tenant"), name="A tenant", active=active)


def project(of: Tenant, name: str = "", default_data_class: str = "internal") -> Project:
    """A project of a tenant."""
    with rls.tenant_scope(of.id):
        return Project.objects.create(
            tenant=of, slug=name or slug("project"), name="A project", default_data_class=default_data_class
        )


def user(email: str = "", *, is_platform_admin: bool = False) -> User:
    """A person without a usable password."""
    made = User(email=email or f"{slug('user')}@example.org", name="A person", is_platform_admin=is_platform_admin)
    made.set_unusable_password()
    made.save()
    return made


def membership(of: Tenant, who: User, role: str = Role.TENANT_ADMIN) -> Membership:
    """A user's role in a tenant."""
    with rls.tenant_scope(of.id):
        return Membership.objects.create(tenant=of, user=who, role=role)


def api_key(
    of: Project,
    *,
    scopes: tuple[str, ...] = (Scope.INFERENCE,),
    role: str = Role.DEVELOPER,
    default_data_class: str = "",
    made_by: User | None = None,
) -> tuple[ApiKey, str]:
    """A key and its text: a person's, or without one a service account's."""
    text = keys.generate()
    with rls.tenant_scope(of.tenant_id):
        key = ApiKey.objects.create(
            tenant_id=of.tenant_id,
            project=of,
            name="A key",
            prefix=text[: keys.SHOWN],
            pepper_id=keys.pepper().id,
            digest=keys.digest(text),
            scopes=list(scopes),
            role=role,
            default_data_class=default_data_class,
            created_by=made_by,
            service_account=made_by is None,
        )
    return key, text


def household(*, scopes: tuple[str, ...] = (Scope.INFERENCE,)) -> Household:
    """A tenant with all that a request needs."""
    of = tenant()
    home = project(of)
    admin = user()
    membership(of, admin)
    key, text = api_key(home, scopes=scopes)
    return Household(of, home, admin, key, text)


def fresh(who: User) -> Actor:
    """A person who logged in just now."""
    return actor_of_user(who, logged_in_at=time.time())


def active_policy(of: Tenant | None, document: Mapping[str, Any] | str) -> Any:
    """A version that two people made the one that decides; of the baseline without a tenant."""
    from kasbah.residency import services

    one, other = (fresh(user(is_platform_admin=True)) for _ in range(2))
    asked = services.request_activation(one, services.create_policy(one, of, document))
    return services.approve_policy(other, asked, asked.comparison) if asked.state == "requested" else asked


def approve(who: Actor, asked: Any) -> Any:
    """Agree, as the second person, to a version of a policy, an erasure, a pruning policy: to what `asked` shows."""
    from kasbah.audit.models import Erasure, PruningPolicy
    from kasbah.residency.services import approve_policy, erasures, pruning

    if isinstance(asked, Erasure):
        return erasures.approve_erasure(who, asked, asked.digest)
    if isinstance(asked, PruningPolicy):
        return pruning.approve_pruning(who, asked, pruning.seen_of(asked))
    return approve_policy(who, asked, asked.comparison)


def content(of: Project, *, days: float = 0, level: str = "sealed", ceiling: int = 30, **fields: Any) -> Any:
    """The prompt of a request that was stored `days` ago, with the event that commits to it: audit.models.Content."""
    from kasbah.audit.content import records, vault
    from kasbah.audit.models import Content, ContentKey
    from kasbah.audit.services import Event, EventType, record

    tenant, key = of.tenant_id, vault.MonthKey(uuid7(), of.tenant_id, os.urandom(32))
    actor = fields.pop("actor", SYSTEM.ref)
    given = {"project_id": of.id, "request_id": f"req_{uuid7().hex}", "data_class": "public", **fields}
    place = records.Place(tenant_id=tenant, level=level, policy="p@1", ceiling_days=ceiling, **given)
    made = records.make(key, place, part="prompt", form="body", content=b'{"prompt":"x"}')
    with rls.tenant_scope(tenant):
        ContentKey.objects.create(
            id=key.id,
            tenant_id=tenant,
            month=date(1970 + ContentKey.objects.filter(tenant_id=tenant).count(), 1, 1),  # one key a month
            wrapped=vault.wrap(tenant, key.id, key.key),
        )
        commitments = {"prompt": made.commitment}
        event = record(
            Event(
                type=EventType.INFERENCE_INTENT,
                tenant_id=tenant,
                actor=actor,
                request_id=place.request_id,
                commitments=commitments,
            )
        )
        return Content.objects.create(
            id=made.id,
            tenant_id=tenant,
            key_id=key.id,
            event_id=event.id,
            part="prompt",
            form="body",
            level=level,
            policy="p@1",
            ceiling_days=ceiling,
            opening=made.opening,
            record_key=made.record_key,
            ciphertext=made.ciphertext,
            created_at=datetime.now(UTC) - timedelta(days=days),
            **given,
        )


def events_of(tenant_id: UUID | None) -> list[dict[str, object]]:
    """The audit events of a tenant, or of the system, oldest first."""
    from inference_worker.contract import canonical
    from kasbah.audit.models import Intake

    with rls.platform_scope():
        rows = Intake.objects.filter(tenant_id=tenant_id).order_by("id")
        return [canonical.loads(bytes(row.event)) for row in rows]
