"""Versions of a policy are drafted; none is ever changed or deleted. What becomes of them: see approval, activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db.models import Max

from kasbah.audit.services import record
from kasbah.common.errors import Conflict
from kasbah.identity.models import Tenant
from kasbah.identity.services import Actor, person_behind
from kasbah.residency import text
from kasbah.residency.document import PolicyInvalid, Problem
from kasbah.residency.models import PolicyState, digest_of
from kasbah.residency.services.approval import request_activation
from kasbah.residency.services.shelves import Shelf, Version, shelf_of


def create_policy(actor: Actor, tenant: Tenant | None, given: Mapping[str, Any] | str) -> Any:
    """A new version of the tenant's policy, or with None of the platform's baseline, as a draft.

    `given` is a document, or its text in YAML or JSON, which is kept beside it with its comments.
    Raises NotFound, Forbidden, PolicyInvalid.
    """
    shelf = Shelf(tenant.id if tenant else None)
    shelf.require(actor, "manage")
    document, problems = check_policy(tenant, given)
    if document is None or problems:
        raise PolicyInvalid(problems)
    with shelf.scope():
        policy = _draft(shelf, actor, document, given if isinstance(given, str) else "")
        record(shelf.event("created", actor, policy))
    return policy


def check_policy(
    tenant: Tenant | None, given: Mapping[str, Any] | str
) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """The document, and everything that is wrong with it, with lines of a text. None: it cannot be read at all."""
    shelf = Shelf(tenant.id if tenant else None)
    if not isinstance(given, str):
        return given, shelf.problems(given)
    try:
        document, source = text.parse(given)
    except PolicyInvalid as error:
        return None, error.problems
    if (found := text.check_source(given)) is not None:
        return document, [found]
    return document, [replace(problem, line=source.line(problem.path) or 0) for problem in shelf.problems(document)]


def roll_back(actor: Actor, policy: Version, at: datetime | None = None) -> Version:
    """Go back to a version that once decided: a new version of its document, asked for like any other.

    Raises NotFound, Forbidden, Conflict, Invalid, PolicyInvalid.
    """
    shelf = shelf_of(policy)
    shelf.require(actor, "manage")
    with shelf.scope():
        found = shelf.find(policy)
        if found.activated_at is None or found.state == PolicyState.ACTIVE:
            now = "active already" if found.activated_at else f"{found.state} and never was active"
            raise Conflict(f"Version {found.version} is {now}; roll back to one that decided before.")
        shelf.ready(found)
        again: Version = _draft(shelf, actor, found.document, found.source)
        record(shelf.event("rolled_back", actor, again, to=found.version))
        return request_activation(actor, again, at)


def _draft(shelf: Shelf, actor: Actor, document: Mapping[str, Any], source: str) -> Any:
    shelf.lock()
    last = shelf.versions.aggregate(last=Max("version"))["last"] or 0
    policy = shelf.new(
        version=last + 1,
        document=document,
        source=source,
        digest=digest_of(document),
        created_by_id=person_behind(actor),
    )
    policy.save(force_insert=True)
    return policy
