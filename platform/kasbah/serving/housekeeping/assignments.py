"""What each worker is to do, signed, in its site's store: written when it changes, and when the store has lost it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from django.db.models import F

from inference_worker.contract import keys, messages, sealing
from inference_worker.contract.manifest import FileEntry
from inference_worker.contract.messages import Assigned, Assignment, EngineSettings, SealedKey, checked, signed
from inference_worker.contract.signing import BadToken, Purpose, Verifier, b64, key_id
from kasbah.audit.services.content import demand
from kasbah.common import rls
from kasbah.common.isolation import Isolation
from kasbah.residency.models import Site, SiteState
from kasbah.residency.services import ControlKeys, control_keys
from kasbah.residency.services.site_keys import private_keys
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.housekeeping import troubles
from kasbah.serving.housekeeping.sites import Reached
from kasbah.serving.models import Deployment, Job, JobState, Worker, WorkerState

logger = logging.getLogger(__name__)
isolation = Isolation(logger)

STATES = {
    WorkerState.ENROLLED.value: "active",
    WorkerState.LOST.value: "active",
    WorkerState.CORDONED.value: "cordoned",
    WorkerState.DRAINED.value: "drained",
    WorkerState.REVOKED.value: "revoked",
}


def write(reached: Reached, workers: Sequence[Worker]) -> int:
    """Write what differs for these approved workers and the revoked ones. Answers how many. Raises StoreAway."""
    with rls.platform_scope():
        everyone = [*workers, *Worker.objects.filter(site=reached.site, state=WorkerState.REVOKED)]
    if not everyone:
        return 0
    wanted, control, epoch = _deployments(reached.site), control_keys(), _cache_epoch()
    site_keys = private_keys(reached.site)
    stopping = reached.site.state == SiteState.DRAINED and not _has_jobs(reached.site)
    current = reached.store.values([keys.assignment(str(worker.id)) for worker in everyone])
    written = 0
    for worker, token in zip(everyone, current, strict=True):
        state = STATES[worker.state]
        revoked = state == "revoked"
        if stopping and not revoked:
            state = "drained"
        draft = Draft(worker, state, [] if revoked else wanted, {} if revoked else site_keys, control, epoch)
        said = _said(token, control)
        if said is None or draft.differs(said):
            with isolation.apart(f"The assignment of worker {worker.name} of site {reached.site.slug}", StoreAway):
                _write(reached, draft)
                written += 1
    return written


def _cache_epoch() -> int:
    """One number for all tenants: what it costs the others is a cold cache after an erasure, which is rare."""
    with rls.platform_scope():
        return demand.carried_out()


def _has_jobs(site: Site) -> bool:
    """Whether something runs or waits there: its workers finish that before they are drained with their site."""
    with rls.platform_scope():
        return Job.objects.filter(site=site, state__in=[JobState.QUEUED, JobState.RUNNING]).exists()


@dataclass(frozen=True, slots=True)
class Draft:
    """What an assignment is to say."""

    worker: Worker
    state: str
    deployments: list[Assigned]
    site_keys: dict[str, X25519PrivateKey]
    control: ControlKeys
    cache_epoch: int

    @property
    def identity(self) -> str:
        """Id of the worker's own key as it is known here."""
        return key_id(bytes(self.worker.public_key))

    @property
    def rotate(self) -> str:
        """Id of the worker's own key, where it must replace that."""
        return self.identity if self.worker.must_rotate else ""

    @property
    def control_keys(self) -> list[str]:
        """Whom the worker is to believe."""
        return [b64(key) for key in self.control.told]

    @property
    def notices(self) -> list[str]:
        """What is wrong with the worker that its own log would not say."""
        return troubles.texts(self.worker.troubles, troubles.TOLD)

    def differs(self, said: Assignment) -> bool:
        """Whether the worker was told something else. Boxes are new each time, so their names are compared."""
        names = ("state", "deployments", "control_keys", "identity", "rotate", "notices", "cache_epoch")
        return any(getattr(said, name) != getattr(self, name) for name in names) or [
            item.key_id for item in said.site_keys
        ] != list(self.site_keys)

    def signed(self, revision: int) -> str:
        """The token, by a key that the worker believes."""
        assignment = Assignment(
            worker=str(self.worker.id),
            revision=revision,
            state=self.state,
            deployments=self.deployments,
            issued=messages.now(),
            control_keys=self.control_keys,
            site_keys=[self._sealed(private) for private in self.site_keys.values()],
            identity=self.identity,
            rotate=self.rotate,
            notices=self.notices,
            cache_epoch=self.cache_epoch,
        )
        return signed(self.control.signer_for(self.worker.trusted_keys), Purpose.ASSIGNMENT, assignment)

    def _sealed(self, private: X25519PrivateKey) -> SealedKey:
        worker, site = str(self.worker.id), str(self.worker.site_id)
        box_key = X25519PublicKey.from_public_bytes(bytes(self.worker.box_key))
        name, box = sealing.seal_site_key(private, worker=worker, site=site, box_key=box_key)
        return SealedKey(key_id=name, box=b64(box))


def _deployments(site: Site) -> list[Assigned]:
    with rls.platform_scope():
        rows = Deployment.objects.filter(enabled=True, sites=site).select_related("model_version").order_by("name")
        return [
            Assigned(
                deployment=str(row.id),
                name=row.name,
                model_digest=row.model_version.digest,
                manifest=msgspec.convert(row.model_version.manifest, list[FileEntry]),
                engine=msgspec.convert(row.engine_settings, EngineSettings),
            )
            for row in rows
        ]


def _said(token: bytes | None, control: ControlKeys) -> Assignment | None:
    """What the store holds, if it is ours and the worker still believes who signed it."""
    if token is None:
        return None
    try:
        return checked(Verifier.from_raw(*control.told), Purpose.ASSIGNMENT, token.decode(), Assignment)
    except (BadToken, UnicodeDecodeError):
        return None


def _write(reached: Reached, draft: Draft) -> None:
    worker = draft.worker
    with rls.platform_scope():
        Worker.objects.filter(pk=worker.pk).update(assignment_revision=F("assignment_revision") + 1)
        worker.refresh_from_db(fields=["assignment_revision"])
    reached.store.put(keys.assignment(str(worker.id)), draft.signed(worker.assignment_revision))
