"""The keys that payloads are sealed for: each site has a current one, and while it rotates a next and retired ones.

Workers get the private halves of all in their assignments, sealed for each of them. Payloads are sealed for a next
key only once the workers have it, and a retired one is destroyed when no unfinished job can need it any more
(serving.services.keys knows both).
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.utils import timezone

from inference_worker.contract.signing import key_id
from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, sealed
from kasbah.common.errors import Conflict
from kasbah.common.requestid import current
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.models import KeyState, Site, SiteKey

TABLE, COLUMN = "residency_sitekey", "private_key_sealed"


def new_pair() -> X25519PrivateKey:
    """A key for a site that is about to be made."""
    return X25519PrivateKey.generate()


def keep_first(site: Site, private: X25519PrivateKey) -> SiteKey:
    """Keep the first key of a new site. The caller has the transaction and the event."""
    return _keep(site, private, KeyState.CURRENT)


def private_keys(site: Site) -> dict[str, X25519PrivateKey]:
    """By id, all that open payloads of the site and have not been destroyed. Raises sealing.CannotOpen."""
    with rls.platform_scope():
        rows = SiteKey.objects.filter(site=site).exclude(private_key_sealed=b"").order_by("id")
        return {row.key_id: _opened(row) for row in rows}


def prepare_site_key(actor: Actor, site: Site, *, replace: bool = False, reason: str = "") -> SiteKey:
    """Make the site's next key; nothing is sealed for it yet. With `replace` a next one that waits is destroyed.

    Raises Forbidden, Conflict.
    """
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        waiting = SiteKey.objects.select_for_update().filter(site=site, state=KeyState.NEXT).first()
        if waiting is not None and not replace:
            raise Conflict("The site has a next key already, which its workers are taking over.", code="key_pending")
        if waiting is not None:
            waiting.end(KeyState.REVOKED)
        key = _keep(site, new_pair(), KeyState.NEXT)
        record(_event(EventType.SITE_KEY_CREATED, actor, key, reason=reason))
    return key


def switch_site_key(actor: Actor, site: Site, **details: Any) -> SiteKey:
    """Seal for the next key from now on. Who has it is the caller's to ask. Raises Forbidden, Conflict."""
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        keys = {
            key.state: key
            for key in SiteKey.objects.select_for_update().filter(site=site, state__in=["next", "current"])
        }
        following = keys.get(KeyState.NEXT)
        if following is None:
            raise Conflict("The site has no next key: prepare one first.", code="no_next_key")
        following.follow(keys.get(KeyState.CURRENT))
        site.sealing_public_key = bytes(following.public_key)
        site.save(update_fields=["sealing_public_key"])
        record(_event(EventType.SITE_KEY_SWITCHED, actor, following, **details))
    return following


def destroy_site_key(actor: Actor, key: SiteKey) -> None:
    """Destroy the private half of a retired key: what was sealed for it opens nowhere any more. Raises Conflict."""
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        row = SiteKey.objects.select_for_update().get(pk=key.pk)
        if row.state != KeyState.RETIRED:
            raise Conflict("Only a retired key can be destroyed.", code="key_in_use")
        row.end(KeyState.RETIRED)
        record(_event(EventType.SITE_KEY_DESTROYED, actor, row))


def destroy_all(site: Site) -> None:
    """Destroy every private half of a site that is given up. The caller has the transaction and the event."""
    for key in SiteKey.objects.select_for_update().filter(site=site).exclude(private_key_sealed=b""):
        key.end(KeyState.RETIRED)


def _keep(site: Site, private: X25519PrivateKey, state: KeyState) -> SiteKey:
    public = private.public_key().public_bytes_raw()
    key = SiteKey(site=site, key_id=key_id(public), public_key=public, state=state)
    key.private_key_sealed = sealed.seal(private.private_bytes_raw(), table=TABLE, row=key.id, column=COLUMN)
    if state == KeyState.CURRENT:
        key.current_at = timezone.now()
    key.save(force_insert=True)
    return key


def _opened(key: SiteKey) -> X25519PrivateKey:
    raw = sealed.unseal(key.private_key_sealed, table=TABLE, row=key.id, column=COLUMN)
    return X25519PrivateKey.from_private_bytes(raw)


def _event(kind: EventType, actor: Actor, key: SiteKey, **details: Any) -> Event:
    return Event(
        type=kind,
        tenant_id=None,
        actor=actor.ref,
        resource=Resource("site_key", str(key.id)),
        request_id=current(),
        site=str(key.site_id),
        details={"key_id": key.key_id, **details},
    )
