"""Key rotations go on by themselves: a next key is used once every live worker has it, an old one ends when unused."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kasbah.common.errors import Conflict
from kasbah.identity.services import system
from kasbah.residency.models import Site
from kasbah.residency.services import signing_keys, site_keys
from kasbah.serving.models import Worker
from kasbah.serving.services import keys

logger = logging.getLogger(__name__)


def turn_signing_keys() -> None:
    """Switch to the next signing key when all know it; destroy retired ones that no worker depends on."""
    rotation = keys.signing_rotation()
    if rotation.following and not rotation.missing:
        try:
            key = signing_keys.switch_signing_key(system("housekeeping"), acknowledged=len(rotation.acknowledged))
        except Conflict:
            return  # somebody else switched
        logger.info("Tickets are signed with key %s from now on", key)
    keys.end_signing_keys()


def turn_site_keys(site: Site, workers: Sequence[Worker]) -> None:
    """The same for the keys that payloads are sealed for at one site."""
    rotation = keys.site_rotation(site, workers)
    if rotation.following and not rotation.missing:
        try:
            key = site_keys.switch_site_key(system("housekeeping"), site, acknowledged=len(rotation.acknowledged))
        except Conflict:
            return
        logger.info("Payloads for site %s are sealed for key %s from now on", site.slug, key)
    for key in keys.unused_site_keys(site):
        site_keys.destroy_site_key(system("housekeeping"), key)
