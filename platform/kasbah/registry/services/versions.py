"""Versions of models: brought in by one person, approved by another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from django.db.models import QuerySet

from inference_worker.contract import canonical
from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Forbidden, NotFound
from kasbah.common.requestid import current
from kasbah.identity.services import Actor, Permission, Proposal, require, require_approver, require_seen
from kasbah.registry.models import Model, ModelVersion, Stage
from kasbah.registry.store import Admitted, Watcher, admit


def register_version(
    actor: Actor,
    *,
    name: str,
    publisher: str,
    licence: str,
    family: str,
    folder: Path,
    progress: Watcher | None = None,
) -> ModelVersion:
    """Look at the model in `folder`, hash it, keep it under its digest, and enter it, scanned but not yet approved.

    Doing it again with the same bytes gives the same version. `progress` is called as bytes are read. `folder` stays.
    Raises Forbidden, Invalid naming the file that may not come in, Conflict, Unavailable (disk full).
    """
    require(actor, Permission.MODEL_MANAGE, None)
    facts = {"publisher": publisher, "licence": licence, "family": family}
    _model(name, facts)  # what is wrong with the names is said before hours of hashing
    admitted = admit(folder, progress)
    with rls.platform_scope():
        known = ModelVersion.objects.select_related("model").filter(digest=admitted.digest).first()
        if known is not None:
            return _taken_over(actor, _same(known, name))
        model = _model(name, facts)
        validation.save(model, f"Somebody else entered the model {name} at this moment; try again.", param="name")
        version = _enter(actor, model, admitted)
        record(_event(EventType.MODEL_REGISTERED, actor, version, name=name, licence=licence, bytes=version.size))
    return version


def seen_of(version: ModelVersion) -> str:
    """The digest that an approval is bound to: the bytes, and what is said of where they come from."""
    model = version.model
    document = {
        "digest": version.digest,
        "model": {name: getattr(model, name) for name in ("name", "publisher", "licence", "family")},
        "imported_by": str(version.imported_by_id or ""),
    }
    return hashlib.sha256(canonical.dumps(document)).hexdigest()


def approve(actor: Actor, version: ModelVersion, seen: str = "", *, bootstrap: bool = False) -> ModelVersion:
    """Let a version be deployed. It takes a person, and another than the one who brought it in.

    `seen`: what was looked at (seen_of). `bootstrap`: the platform itself approves, when it is set up and there is
    nobody yet; the audit event says so. Raises Forbidden, NotFound, Conflict.
    """
    require(actor, Permission.MODEL_MANAGE, None)
    if bootstrap and actor.kind != "system":
        raise Forbidden("Only a command of the installation itself approves without a second person.")
    if not bootstrap and actor.user_id is None:
        raise Forbidden("A model is approved by a person who is logged in, not by a key or a program.")
    with rls.platform_scope():
        rows = ModelVersion.objects.select_for_update(of=("self",)).select_related("model")
        found = rows.filter(pk=version.pk).first()
        if found is None:
            raise NotFound("There is no such model version.")
        if found.stage != Stage.SCANNED:
            raise Conflict(f"The version is {found.stage}; only one that is scanned can be approved.")
        facts = {}
        if not bootstrap:
            facts = require_approver(actor, _proposal(found))
            require_seen(seen, seen_of(found))
        found.stage, found.approved_by_id = Stage.APPROVED, actor.user_id
        found.save(update_fields=["stage", "approved_by"])
        record(_event(EventType.MODEL_APPROVED, actor, found, bootstrap=bootstrap, **facts))
    return found


def _proposal(version: ModelVersion) -> Proposal:
    return Proposal(asked_by=version.imported_by_id, permission=Permission.MODEL_MANAGE, tenant_id=None)


def get(digest: str) -> ModelVersion:
    """By digest. Raises NotFound."""
    found = find(digest)
    if found is None:
        raise NotFound("There is no model version of this digest.")
    return found


def find(digest: str) -> ModelVersion | None:
    """By digest, or None."""
    return ModelVersion.objects.select_related("model").filter(digest=digest).first()


def list_versions(stage: str = "") -> QuerySet[ModelVersion]:
    """All, or those of one stage, newest first."""
    versions = ModelVersion.objects.select_related("model").order_by("-id")
    return versions.filter(stage=stage) if stage else versions


def _model(name: str, facts: dict[str, str]) -> Model:
    """The model of this name with these facts, unsaved when it is new. Raises Invalid, Conflict."""
    model = Model.objects.filter(name=name).first()
    if model is None:
        model = Model(name=name, **facts)
        validation.check(model)
    for field, value in facts.items():
        if getattr(model, field) != value:
            raise Conflict(
                f"The model {name} is known with the {field} {getattr(model, field)!r}; use that, or another name.",
                param=field,
            )
    return model


def _same(version: ModelVersion, name: str) -> ModelVersion:
    """What to answer when these bytes are known already."""
    if version.model.name != name:
        raise Conflict(f"These very files are known as a version of the model {version.model.name}.", param="name")
    if version.stage in (Stage.REJECTED, Stage.RETIRED):
        raise Conflict(f"These very files are known and {version.stage}.", param="folder")
    return version


def _taken_over(actor: Actor, version: ModelVersion) -> ModelVersion:
    """A version whose importer may no longer bring any in is its next importer's; else it could never be approved."""
    if version.stage == Stage.SCANNED and _proposal(version).lapsed:
        version.imported_by_id = actor.user_id
        version.save(update_fields=["imported_by"])
        record(_event(EventType.MODEL_REGISTERED, actor, version, name=version.model.name, taken_over=True))
    return version


def _enter(actor: Actor, model: Model, admitted: Admitted) -> ModelVersion:
    version = ModelVersion(
        model=model,
        digest=admitted.digest,
        manifest=msgspec.to_builtins(admitted.files),
        size=admitted.size,
        stage=Stage.SCANNED,
        topology=admitted.topology,
        imported_by_id=actor.user_id,
    )
    validation.save(version, "Somebody else brought the same files in at this moment.", param="folder")
    return version


def _event(kind: EventType, actor: Actor, version: ModelVersion, **details: Any) -> Event:
    return Event(
        type=kind,
        tenant_id=None,
        actor=actor.ref,
        resource=Resource("model_version", str(version.id), version.digest),
        request_id=current(),
        details=details,
    )
