"""The keys with which the control plane signs tickets and assignments: next, current, retired, revoked.

One is current. A next one is told to the workers first, so that nothing is ever signed with a key that they do not
know (serving.services.keys asks them); a retired one is believed as long as a ticket of it may be under way, and its
public half is published for good, so that old tickets are verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import IntegrityError, transaction
from django.utils import timezone

from inference_worker.contract.sealing import CannotOpen
from inference_worker.contract.signing import Signer, Verifier
from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, sealed
from kasbah.common.database import Connection
from kasbah.common.errors import Conflict, NotFound, Unavailable
from kasbah.common.requestid import current
from kasbah.identity.services import Actor, Permission, require, system
from kasbah.residency.models import KeyState, SigningKey

TABLE, COLUMN = "residency_signingkey", "private_key_sealed"
KEYS = "SELECT id, public_key, private_key_sealed, state, retired_at FROM residency_signingkey ORDER BY id"
BELIEVED = timedelta(minutes=15)  # after it retired: longer than a ticket lives (tickets.LIFETIME)


@dataclass(frozen=True, slots=True)
class ControlKeys:
    """The keys as they are now. `told` are the raw public keys that workers are to believe, `published` all."""

    current: Signer
    told: tuple[bytes, ...]
    published: tuple[bytes, ...]
    signers: tuple[Signer, ...] = field(repr=False)  # current first, then others that may sign assignments

    @property
    def verifier(self) -> Verifier:
        """Believes every key that was not revoked."""
        return Verifier.from_raw(*self.published)

    def signer_for(self, believed: Sequence[str]) -> Signer:
        """Whose assignments a worker takes that believes keys of these ids; the current one where none is known."""
        return next((signer for signer in self.signers if signer.key_id in believed), self.current)


def control_keys() -> ControlKeys:
    """The keys, from synchronous code; the first one is made where there is none.

    Raises Unavailable when KASBAH_KEK is not the key that sealed them.
    """
    with rls.platform_scope():
        found = list(_rows())
        if not any(row[3] == KeyState.CURRENT for row in found):
            _first()
            found = list(_rows())
    return _built(found)


async def load_control_keys(connection: Connection) -> ControlKeys | None:
    """The keys, from asynchronous code; None before the first site was made. Raises Unavailable as above."""
    rows = await (await connection.execute(KEYS)).fetchall()
    return _built(rows) if any(row[3] == KeyState.CURRENT for row in rows) else None


def prepare_signing_key(actor: Actor) -> SigningKey:
    """Make the next key; workers are told of it, nothing is signed with it yet. Raises Forbidden, Conflict."""
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        if SigningKey.objects.filter(state=KeyState.NEXT).exists():
            raise Conflict("There is a next key already: switch to it, or revoke it.", code="key_pending")
        key = _make(KeyState.NEXT)
        record(_event(EventType.SIGNING_KEY_CREATED, actor, key))
    return key


def switch_signing_key(actor: Actor, **details: Any) -> SigningKey:
    """Sign with the next key from now on. Who knows it already is the caller's to ask. Raises Forbidden, Conflict."""
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        keys = {key.state: key for key in SigningKey.objects.select_for_update().filter(state__in=["next", "current"])}
        following = keys.get(KeyState.NEXT)
        if following is None:
            raise Conflict("There is no next key: prepare one first.", code="no_next_key")
        following.follow(keys.get(KeyState.CURRENT))
        record(_event(EventType.SIGNING_KEY_SWITCHED, actor, following, **details))
    return following


def revoke_signing_key(actor: Actor, key_id: str) -> SigningKey:
    """Never believe it again; its private half is destroyed. The current one cannot be: switch first.

    Raises Forbidden, NotFound, Conflict.
    """
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        key = SigningKey.objects.select_for_update().filter(key_id=key_id).first()
        if key is None:
            raise NotFound(f"There is no signing key {key_id}.")
        if key.state == KeyState.CURRENT:
            raise Conflict("The current key cannot be revoked: prepare a next one and switch first.", code="key_in_use")
        if key.state == KeyState.REVOKED:
            raise Conflict("The key is revoked already.", code="state_unchanged")
        key.end(KeyState.REVOKED)
        record(_event(EventType.SIGNING_KEY_REVOKED, actor, key))
    return key


def destroy_retired(keep: Iterable[str] = ()) -> int:
    """Destroy the private halves of retired keys that no worker needs any more to be reached, but for `keep`."""
    with rls.platform_scope():
        old = SigningKey.objects.filter(state=KeyState.RETIRED, retired_at__lt=timezone.now() - BELIEVED)
        return old.exclude(key_id__in=list(keep)).exclude(private_key_sealed=b"").update(private_key_sealed=b"")


def _rows() -> Iterable[tuple[Any, ...]]:
    return SigningKey.objects.order_by("id").values_list("id", "public_key", COLUMN, "state", "retired_at")


def _first() -> None:
    try:
        with transaction.atomic():
            key = _make(KeyState.CURRENT)
            record(_event(EventType.SIGNING_KEY_CREATED, system("signing-keys"), key, first=True))
    except IntegrityError:
        pass  # another process was first


def _make(state: KeyState) -> SigningKey:
    private = Ed25519PrivateKey.generate()
    signer = Signer(private)
    key = SigningKey(key_id=signer.key_id, public_key=signer.public.public_bytes_raw(), state=state)
    key.private_key_sealed = sealed.seal(private.private_bytes_raw(), table=TABLE, row=key.id, column=COLUMN)
    if state == KeyState.CURRENT:
        key.current_at = timezone.now()
    key.save(force_insert=True)
    return key


def _built(rows: Iterable[tuple[Any, ...]]) -> ControlKeys:
    public: dict[str, list[bytes]] = {state: [] for state in KeyState.values}
    signers: dict[str, list[Signer]] = {state: [] for state in KeyState.values}
    told = []
    for ident, key, box, state, retired_at in rows:
        public[state].append(bytes(key))
        if box:
            signers[state].append(_opened(ident, box))
        if state in {KeyState.CURRENT, KeyState.NEXT} or (state == KeyState.RETIRED and _recent(retired_at)):
            told.append(bytes(key))
    return ControlKeys(
        current=signers[KeyState.CURRENT][0],
        told=tuple(told),
        published=tuple(key for state in KeyState.values if state != KeyState.REVOKED for key in public[state]),
        # Not the next one: a worker that believes it already follows the current one too.
        signers=(signers[KeyState.CURRENT][0], *reversed(signers[KeyState.RETIRED])),
    )


def _recent(retired_at: datetime | None) -> bool:
    return retired_at is not None and timezone.now() - retired_at < BELIEVED


def _opened(ident: object, box: bytes | memoryview) -> Signer:
    try:
        return Signer.from_raw(sealed.unseal(box, table=TABLE, row=ident, column=COLUMN))
    except CannotOpen as error:
        raise Unavailable("A signing key cannot be opened: KASBAH_KEK is not the key that sealed it.") from error


def _event(kind: EventType, actor: Actor, key: SigningKey, **details: Any) -> Event:
    return Event(
        type=kind,
        tenant_id=None,
        actor=actor.ref,
        resource=Resource("signing_key", str(key.id)),
        request_id=current(),
        details={"key_id": key.key_id, **details},
    )
