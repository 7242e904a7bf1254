"""Sites: datacenters in one jurisdiction, each with its own broker and its own key to seal payloads for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from inference_worker.contract import egress
from inference_worker.contract.settings import SettingError, check_address
from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, sealed, validation
from kasbah.common.errors import Conflict, Invalid
from kasbah.common.requestid import current
from kasbah.identity.services import Actor, Permission, require
from kasbah.residency.jurisdictions import CODES
from kasbah.residency.models import Site, SiteHealth, SiteState
from kasbah.residency.services import signing_keys, site_keys

TABLE = "residency_site"
STORES = ("redis", "rediss")
BROKERS = (*STORES, "amqp", "amqps")
LONGEST = 500  # characters of an address
SiteUse = Callable[[Site], Iterable[str]]
_uses: list[SiteUse] = []  # of the apps above, which know what needs a site


def create_site(
    actor: Actor, slug: str, name: str, jurisdiction: str, broker_url: str, *, store_url: str = "", zone: str = ""
) -> Site:
    """A new site with a new sealing key; without `store_url` its broker is its store too. `zone` "": in none.

    Raises Forbidden, Invalid, Conflict.
    """
    require(actor, Permission.SITE_MANAGE, None)
    if jurisdiction not in CODES:
        raise Invalid(
            "Use the country code of ISO 3166-1 alpha-2, two capital letters such as FR.", param="jurisdiction"
        )
    private = site_keys.new_pair()
    site = Site(slug=slug, name=name, jurisdiction=jurisdiction, zone=zone)
    site.sealing_public_key = private.public_key().public_bytes_raw()
    _place(site, broker_url, store_url)
    with rls.platform_scope():
        validation.save(site, f"There is a site {slug} already.", param="slug")
        site_keys.keep_first(site, private)
        signing_keys.control_keys()  # the first site brings the first signing key
        where = {"jurisdiction": jurisdiction} | ({"zone": zone} if zone else {})
        record(_event(EventType.SITE_CREATED, actor, site, **where))
    return site


def update_site(
    actor: Actor,
    site: Site,
    *,
    name: str | None = None,
    broker_url: str | None = None,
    store_url: str | None = None,
) -> Site:
    """Rename it, or move its broker or store (`store_url` "": the broker is the store again).

    Jurisdiction and zone stay: another place is another site. Raises Forbidden, Invalid, Conflict.
    """
    require(actor, Permission.SITE_MANAGE, None)
    fields = []
    if name is not None:
        site.name = name
        fields.append("name")
    if broker_url is not None or store_url is not None:
        broker, store = addresses(site.id, site.broker_url_sealed, site.store_url_sealed)
        own = store if site.store_url_sealed else ""
        _place(site, broker if broker_url is None else broker_url, own if store_url is None else store_url)
        given = (("broker_url_sealed", broker_url), ("store_url_sealed", store_url))
        fields += [column for column, url in given if url is not None]
    with rls.platform_scope():
        locked_in_use(site)
        validation.check(site)
        site.save(update_fields=fields)
        record(_event(EventType.SITE_CHANGED, actor, site, fields=fields))
    return site


def cordon_site(actor: Actor, site: Site) -> Site:
    """No new jobs are sent there; what it has ends, its engines stay. Raises Forbidden, Conflict."""
    return _set_state(actor, site, SiteState.CORDONED, EventType.SITE_CORDONED)


def drain_site(actor: Actor, site: Site) -> Site:
    """Cordoned, and its engines stop when what it has has ended. Raises Forbidden, Conflict."""
    return _set_state(actor, site, SiteState.DRAINED, EventType.SITE_DRAINED)


def resume_site(actor: Actor, site: Site) -> Site:
    """It takes jobs again. Raises Forbidden, Conflict."""
    return _set_state(actor, site, SiteState.ACTIVE, EventType.SITE_RESUMED)


def register_site_use(use: SiteUse) -> None:
    """Have `use` asked before a site is retired; it answers what still needs the site, in words."""
    _uses.append(use)


def retire_site(actor: Actor, site: Site) -> Site:
    """Give a drained site up for good: nothing reaches for it any more, and its keys are destroyed.

    What names it (jobs, receipts, events) stays. Unfinished jobs at a site that cannot be reached fail. Raises
    Forbidden, Conflict.
    """
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        current = locked_in_use(site)
        if current.state != SiteState.DRAINED:
            raise Conflict("Drain the site first; what it has ends then.", code="site_not_drained")
        if found := [reason for use in _uses for reason in use(current)]:
            raise Conflict(f"The site is still used: {'; '.join(found)}.", code="site_in_use")
        site_keys.destroy_all(current)
        current.state = SiteState.RETIRED
        current.save(update_fields=["state"])
        SiteHealth.objects.filter(site=current).delete()
        record(_event(EventType.SITE_RETIRED, actor, current))
    site.state = SiteState.RETIRED
    return site


def locked_in_use(site: Site) -> Site:
    """The site as it is now, locked, unless it is retired. Raises Conflict."""
    current = Site.objects.select_for_update().get(pk=site.pk)
    if current.state == SiteState.RETIRED:
        raise Conflict(f"The site {current.slug} is retired, which cannot be undone.", code="site_retired")
    return current


def _set_state(actor: Actor, site: Site, state: SiteState, kind: EventType) -> Site:
    require(actor, Permission.SITE_MANAGE, None)
    with rls.platform_scope():
        current = locked_in_use(site)
        if current.state == state:
            raise Conflict(f"The site is {state} already.", code="state_unchanged")
        before, current.state = current.state, state
        current.save(update_fields=["state"])
        record(_event(kind, actor, current, before=before))
    site.state = state
    return site


def broker_url(site: Site) -> str:
    """The address of the site's broker; it holds a password. Raises sealing.CannotOpen."""
    return addresses(site.id, site.broker_url_sealed, site.store_url_sealed)[0]


def store_url(site: Site) -> str:
    """The address of its stream store, which is the broker's where it has none of its own. Raises CannotOpen."""
    return addresses(site.id, site.broker_url_sealed, site.store_url_sealed)[1]


def addresses(site_id: object, broker: bytes | memoryview, store: bytes | memoryview) -> tuple[str, str]:
    """Broker and store of a site from its two sealed columns; this process may connect there from now on.

    Raises sealing.CannotOpen.
    """
    opened = unseal(site_id, "broker_url_sealed", broker).decode()
    found = opened, unseal(site_id, "store_url_sealed", store).decode() if store else opened
    if (guard := egress.installed()) is not None:
        guard.allow(f"site {site_id}", found)
    return found


def unseal(site_id: object, column: str, box: bytes | memoryview) -> bytes:
    """A sealed column of a site. Raises sealing.CannotOpen."""
    return sealed.unseal(box, table=TABLE, row=site_id, column=column)


def _seal(site: Site, column: str, plaintext: bytes) -> bytes:
    return sealed.seal(plaintext, table=TABLE, row=site.id, column=column)


def _place(site: Site, broker: str, store: str) -> None:
    """Check both addresses together and seal them into the row. Raises Invalid."""
    scheme = _checked(broker, BROKERS, "broker_url")
    if store:
        _checked(store, STORES, "store_url")
    elif scheme not in STORES:
        raise Invalid(
            "RabbitMQ carries jobs but keeps no streams: give the address of a Redis or Valkey of this site too.",
            param="store_url",
        )
    site.broker_url_sealed = _seal(site, "broker_url_sealed", broker.encode())
    site.store_url_sealed = _seal(site, "store_url_sealed", store.encode()) if store else b""


def _checked(url: str, schemes: tuple[str, ...], param: str) -> str:
    """The scheme of a sound address. The error does not repeat the address, because it holds a password."""
    try:
        sound = bool(urlsplit(check_address(url, schemes, "It")).hostname) and url.isprintable()
    except SettingError as error:
        raise Invalid(f"{error}.", param=param) from None
    if not sound or len(url) > LONGEST:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise Invalid(f"Give the address with its host, beginning with one of {known}.", param=param)
    return url.partition("://")[0]


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
