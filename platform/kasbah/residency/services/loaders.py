"""What the asynchronous side loads: the active policy of a tenant, and the sites."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from inference_worker.contract.sealing import CannotOpen
from kasbah.common.database import Connection
from kasbah.common.errors import Unavailable
from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.decision import SiteFact
from kasbah.residency.document import PolicyInvalid
from kasbah.residency.models import SiteState
from kasbah.residency.services.sites import addresses

ACTIVE_POLICY = "SELECT id, version, document FROM residency_policy WHERE tenant_id = %s AND state = 'active'"
SITES = """
SELECT id, slug, jurisdiction, sealing_public_key, broker_url_sealed, store_url_sealed, state FROM residency_site
ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """A site: `public_key` is its raw X25519 key; the addresses hold passwords and may be the same one."""

    id: UUID
    slug: str
    jurisdiction: str
    public_key: bytes
    broker_url: str = field(repr=False)
    store_url: str = field(repr=False)
    state: str = SiteState.ACTIVE

    @property
    def takes_jobs(self) -> bool:
        """Whether new jobs may be sent there; a cordoned or drained one only finishes what it has."""
        return self.state == SiteState.ACTIVE

    @property
    def fact(self) -> SiteFact:
        """What a decision needs of it."""
        return SiteFact(self.id, self.slug, self.jurisdiction)


async def load_policy(connection: Connection, tenant_id: UUID) -> CompiledPolicy | None:
    """The active policy, ready to decide; None, which denies everything, when there is none. Raises Unavailable."""
    row = await (await connection.execute(ACTIVE_POLICY, [tenant_id])).fetchone()
    if row is None:
        return None
    try:
        return compile_policy(row[2], tenant=tenant_id, policy_id=str(row[0]), version=row[1])
    except PolicyInvalid as error:
        raise Unavailable(
            f"The residency policy version {row[1]} cannot be read by this version of Kasbah; nothing is allowed "
            "until an administrator activates one that can."
        ) from error


async def load_sites(connection: Connection) -> tuple[SiteRecord, ...]:
    """Every site, oldest first. Raises Unavailable when its secrets do not open."""
    rows = await (await connection.execute(SITES)).fetchall()
    try:
        return tuple(
            SiteRecord(row[0], row[1], row[2], bytes(row[3]), *addresses(row[0], row[4], row[5]), state=row[6])
            for row in rows
        )
    except CannotOpen as error:
        raise Unavailable(
            "The secrets of the sites cannot be opened: KASBAH_KEK is not the key that sealed them."
        ) from error
