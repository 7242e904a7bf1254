"""Who has taken over a next key, and the rotation of the keys of control plane, sites and workers.

A worker is live that is approved and was heard within fifteen seconds. One that is away does not hold a rotation
up: when it returns, its assignment is signed by a key that it believes, and it takes no job before it has read that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import models
from django.utils import timezone

from kasbah.audit.services import EventType, Resource, record
from kasbah.common import rls
from kasbah.common.errors import Conflict
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.models import KeyState, SigningKey, Site, SiteKey
from kasbah.residency.services import signing_keys
from kasbah.serving.models import TERMINAL, UNHEARD, Job, Worker, WorkerState
from kasbah.serving.services.events import event

SETTLED = timedelta(
    seconds=60
)  # after a switch: longer than a web process that hears of no change goes on with the old


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation under way: the id of the next key ("" where there is none) and who of the live workers has it."""

    current: str
    following: str
    acknowledged: tuple[Worker, ...]
    missing: tuple[Worker, ...]


def live(workers: Sequence[Worker]) -> list[Worker]:
    """Those that must have a key before it is used."""
    return [worker for worker in workers if worker.alive]


def signing_rotation() -> Rotation:
    """Of the key that signs tickets and assignments; workers of every site."""
    with rls.platform_scope():
        named = dict(SigningKey.objects.filter(state__in=["next", "current"]).values_list("state", "key_id"))
        workers = _all() if KeyState.NEXT in named else []
    return _rotation(named, workers, "trusted_keys")


def site_rotation(site: Site, workers: Sequence[Worker] | None = None) -> Rotation:
    """Of the key that payloads for `site` are sealed for; `workers` are the site's."""
    with rls.platform_scope():
        rows = SiteKey.objects.filter(site=site, state__in=["next", "current"])
        named = dict(rows.values_list("state", "key_id"))
        if KeyState.NEXT in named and workers is None:
            workers = _all(site)
    return _rotation(named, workers or [], "held_keys")


def _all(site: Site | None = None) -> list[Worker]:
    found = Worker.objects.exclude(state__in=UNHEARD).select_related("site").order_by("site__slug", "name")
    return list(found if site is None else found.filter(site=site))


def _rotation(named: dict[str, str], workers: Sequence[Worker], field: str) -> Rotation:
    current, following = named.get(KeyState.CURRENT, ""), named.get(KeyState.NEXT, "")
    there = live(workers) if following else []
    have = tuple(worker for worker in there if following in getattr(worker, field))
    return Rotation(current, following, have, tuple(worker for worker in there if worker not in have))


def forced(rotation: Rotation) -> dict[str, bool | list[str]]:
    """What the event of a switch says that did not wait for everybody."""
    return {"forced": True, "missing": [str(worker.id) for worker in rotation.missing]}


def end_signing_keys() -> None:
    """Destroy private halves of retired keys, but for those that some worker still depends on to be told of others."""
    with rls.platform_scope():
        if not SigningKey.objects.filter(state=KeyState.RETIRED).exclude(private_key_sealed=b"").exists():
            return
        current = SigningKey.objects.filter(state=KeyState.CURRENT).values_list("key_id", flat=True).first()
        behind = [worker for worker in _all() if worker.trusted_keys and current not in worker.trusted_keys]
    signing_keys.destroy_retired(keep=[name for worker in behind for name in worker.trusted_keys])


def unused_site_keys(site: Site) -> list[SiteKey]:
    """Retired keys for which no unfinished job of the site can have been sealed."""
    with rls.platform_scope():
        before = timezone.now() - SETTLED
        old = SiteKey.objects.filter(site=site, state=KeyState.RETIRED, retired_at__lt=before)
        rows = list(old.exclude(private_key_sealed=b""))
        if not rows:
            return []
        waiting = Job.objects.exclude(state__in=TERMINAL).filter(sites__contains=[str(site.id)])
        oldest = waiting.aggregate(oldest=models.Min("created_at"))["oldest"]
    return [key for key in rows if oldest is None or (key.retired_at and oldest > key.retired_at + SETTLED)]


def ask_rotation(actor: Actor, worker: Worker) -> Worker:
    """Ask a worker to replace its identity key. Raises Forbidden, Conflict."""
    require(actor, Permission.WORKER_MANAGE, None)
    with rls.platform_scope():
        row = Worker.objects.select_for_update().get(pk=worker.pk)
        if row.state == WorkerState.REVOKED:
            raise Conflict("The worker is revoked; enrol it again.", code="worker_revoked")
        row.must_rotate = True
        row.save(update_fields=["must_rotate"])
        resource, site = Resource("worker", str(row.id)), str(row.site_id)
        record(event(EventType.WORKER_KEY_ROTATION_ASKED, actor, resource, site=site, worker=str(row.id)))
    return row
