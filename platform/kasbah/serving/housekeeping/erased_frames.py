"""The sealed frames that sites' stores keep of answers, for resumption, go when the content they are of is erased.

From the erasure on no web process gives them out (gateway/resumption.py); here their bytes go as well. A store that is
away forgets them by itself, after contract.keys.FRAMES_TTL.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from uuid import UUID

from django.db import connection

from inference_worker.contract import keys
from kasbah.audit.services.content import ERASED
from kasbah.common import rls
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.housekeeping.sites import all_sites, reach

# Jobs that ended so recently that a store can still have frames of them; any attempt may have run at any of the sites.
FIND = f"""
SELECT job.id, job.attempt, site FROM serving_job AS job, jsonb_array_elements_text(job.sites) AS site
WHERE job.finished_at > now() - make_interval(secs => %s) AND {ERASED}
"""  # noqa: S608 - a constant

logger = logging.getLogger(__name__)


def delete_erased() -> int:
    """Deletes the frames of every answer whose content was erased; returns how many keys went."""
    with rls.platform_scope(), connection.cursor() as cursor:
        cursor.execute(FIND, [2 * keys.FRAMES_TTL])
        found: list[tuple[UUID, int, str]] = cursor.fetchall()
    names: dict[str, list[str]] = defaultdict(list)
    for job, attempts, allowed in found:
        names[allowed] += [keys.frames(str(job), attempt) for attempt in range(1, attempts + 1)]
    done = 0
    for site in all_sites() if names else ():
        try:
            with reach(site) as reached:
                done += reached.store.delete(names.get(str(site.id), []))
        except StoreAway as error:
            logger.warning("The store of site %s is away (%s); erased streams are deleted later", site.slug, error)
    return done
