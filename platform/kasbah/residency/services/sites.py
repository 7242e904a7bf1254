"""Sites: datacenters in one jurisdiction, each with its own broker and its own key to seal payloads for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, sealed, validation
from kasbah.common.errors import Invalid
from kasbah.common.requestid import current
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.jurisdictions import CODES
from kasbah.residency.models import Site

TABLE = "residency_site"
SCHEMES = ("redis", "rediss")


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """A site's X25519 pair, raw. The private key goes to nobody but an enrolled worker of the site."""

    public: bytes
    private: bytes = field(repr=False)


def create_site(actor: Actor, slug: str, name: str, jurisdiction: str, broker_url: str) -> Site:
    """A new site with a new sealing key. Raises Forbidden, Invalid, Conflict."""
    require(actor, Permission.SITE_MANAGE, None)
    if jurisdiction not in CODES:
        raise Invalid(
            "Use the country code of ISO 3166-1 alpha-2, two capital letters such as FR.", param="jurisdiction"
        )
    private = X25519PrivateKey.generate()
    site = Site(slug=slug, name=name, jurisdiction=jurisdiction)
    site.sealing_public_key = private.public_key().public_bytes_raw()
    site.sealing_private_key_sealed = _seal(site, "sealing_private_key_sealed", private.private_bytes_raw())
    site.broker_url_sealed = _seal(site, "broker_url_sealed", _checked(broker_url).encode())
    with rls.platform_scope():
        validation.save(site, f"There is a site {slug} already.", param="slug")
        record(_event(EventType.SITE_CREATED, actor, site, jurisdiction=jurisdiction))
    return site


def update_site(
    actor: Actor, site: Site, *, name: str | None = None, active: bool | None = None, broker_url: str | None = None
) -> Site:
    """Rename it, switch it off or on, or move its broker. The jurisdiction stays: another place is another site.

    Raises Forbidden, Invalid.
    """
    require(actor, Permission.SITE_MANAGE, None)
    changed: dict[str, str | bool | bytes | None] = {"name": name, "active": active}
    if broker_url is not None:
        changed["broker_url_sealed"] = _seal(site, "broker_url_sealed", _checked(broker_url).encode())
    fields = sorted(field for field, value in changed.items() if value is not None)
    for field_name in fields:
        setattr(site, field_name, changed[field_name])
    with rls.platform_scope():
        validation.check(site)
        site.save(update_fields=fields)
        record(_event(EventType.SITE_CHANGED, actor, site, fields=fields, active=site.active))
    return site


def site_keys(site: Site) -> SiteKeys:
    """The pair to seal for the site and to hand to its workers. Raises sealing.CannotOpen."""
    private = unseal(site.id, "sealing_private_key_sealed", site.sealing_private_key_sealed)
    return SiteKeys(bytes(site.sealing_public_key), private)


def broker_url(site: Site) -> str:
    """The address of the site's broker; it holds a password. Raises sealing.CannotOpen."""
    return unseal(site.id, "broker_url_sealed", site.broker_url_sealed).decode()


def unseal(site_id: object, column: str, box: bytes | memoryview) -> bytes:
    """A sealed column of a site. Raises sealing.CannotOpen."""
    return sealed.unseal(box, table=TABLE, row=site_id, column=column)


def _seal(site: Site, column: str, plaintext: bytes) -> bytes:
    return sealed.seal(plaintext, table=TABLE, row=site.id, column=column)


def _checked(url: str) -> str:
    """A broker's address. The error does not repeat it, because it holds a password."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        sound = False
    if not sound or len(url) > 500:
        raise Invalid("Give the broker's address as redis://... or rediss://... with a host.", param="broker_url")
    return url


def _event(kind: EventType, actor: Actor, site: Site, **details: Any) -> Event:
    return Event(
        type=kind,
        tenant_id=None,
        actor=actor.ref,
        resource=Resource("site", str(site.id)),
        request_id=current(),
        site=str(site.id),
        details={"slug": site.slug, **details},
    )
