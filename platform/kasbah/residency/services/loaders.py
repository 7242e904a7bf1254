"""What decides now: the active policy of a tenant within the platform's baseline, and the sites."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from inference_worker.contract.sealing import CannotOpen
from kasbah.common.database import Connection
from kasbah.common.errors import Unavailable
from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.document import PolicyInvalid
from kasbah.residency.models import BaselinePolicy, Policy, PolicyState, SiteState, intact
from kasbah.residency.places import SiteFact
from kasbah.residency.services.sites import addresses

COLUMNS = ("id", "version", "document", "digest")
ACTIVE_POLICY = f"SELECT {', '.join(COLUMNS)} FROM residency_policy WHERE tenant_id = %s AND state = 'active'"  # noqa: S608 - constants
ACTIVE_BASELINE = f"SELECT {', '.join(COLUMNS)} FROM residency_baselinepolicy WHERE state = 'active'"  # noqa: S608
Row = tuple[Any, ...]  # COLUMNS
SITES = """
SELECT id, slug, jurisdiction, sealing_public_key, broker_url_sealed, store_url_sealed, state, zone FROM residency_site
WHERE state <> 'retired' ORDER BY id
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
    zone: str = ""

    @property
    def addresses(self) -> tuple[str, str]:
        """Where its broker and its store are."""
        return self.broker_url, self.store_url

    @property
    def takes_jobs(self) -> bool:
        """Whether new jobs may be sent there; a cordoned or drained one only finishes what it has."""
        return self.state == SiteState.ACTIVE

    @property
    def fact(self) -> SiteFact:
        """What a decision needs of it."""
        return SiteFact(self.id, self.slug, self.jurisdiction, self.zone)


async def load_policy(connection: Connection, tenant_id: UUID) -> CompiledPolicy | None:
    """The active policy within the baseline, ready to decide; None, which denies everything, when there is none.

    Raises Unavailable.
    """
    row = await (await connection.execute(ACTIVE_POLICY, [tenant_id])).fetchone()
    if row is None:
        return None
    above = await (await connection.execute(ACTIVE_BASELINE)).fetchone()
    return _policy(row, tenant_id, above)


def policy_in_force(tenant_id: UUID) -> CompiledPolicy | None:
    """The same for Django's side, in a scope that sees the tenant. Raises Unavailable."""
    row = Policy.objects.filter(tenant_id=tenant_id, state=PolicyState.ACTIVE).values_list(*COLUMNS).first()
    return None if row is None else _policy(row, tenant_id, _active_baseline())


def baseline_in_force() -> CompiledPolicy | None:
    """The baseline above every tenant's policy; None when there is none. Raises Unavailable."""
    row = _active_baseline()
    return None if row is None else _ready("platform's baseline", row)


def _active_baseline() -> Row | None:
    return BaselinePolicy.objects.filter(state=PolicyState.ACTIVE).values_list(*COLUMNS).first()


def _policy(row: Row, tenant_id: UUID, above: Row | None) -> CompiledPolicy:
    baseline = None if above is None else _ready("platform's baseline", above)
    return _ready("residency policy", row, tenant_id, baseline)


def _ready(
    called: str, row: Row, tenant_id: UUID | None = None, baseline: CompiledPolicy | None = None
) -> CompiledPolicy:
    """Ready to decide. One that is not what was approved, or cannot be read whole, denies everything: Unavailable."""
    ident, version, document, digest = row
    try:
        if intact(document, digest):
            return compile_policy(document, tenant=tenant_id, policy_id=str(ident), version=version, baseline=baseline)
        trouble = "was altered in the database after it was added"
    except PolicyInvalid:
        trouble = "cannot be read by this version of Kasbah"
    raise Unavailable(
        f"The {called} version {version} {trouble}; nothing is allowed until an administrator activates one that can "
        "be used."
    )


async def load_sites(connection: Connection) -> tuple[SiteRecord, ...]:
    """Every site that is not retired, oldest first. Raises Unavailable when its secrets do not open."""
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
