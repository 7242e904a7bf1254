"""How long things may take; every figure of dispatch and housekeeping is read here, from the environment."""

from __future__ import annotations

from dataclasses import dataclass

from kasbah.common import env

HOUR, DAY = 3600, 86_400  # seconds


@dataclass(frozen=True, slots=True)
class Timings:
    """All in seconds, unless the name says otherwise."""

    lease_ms: int = 10_000  # a worker's hold on a job; the worker is started with the same figure
    look: float = 1.0  # how often a web process looks after its running jobs and its sites
    queue_wait: float = 120.0  # in a queue that nobody empties; then the client hears no_capacity
    store_patience: float = 45.0  # a site's store may be away this long before running jobs fail; proxies wait 60 s
    store_timeout: float = 0.8  # one command; twice this must stay under the 2 s in which a client hears of an outage
    attempts: int = 5
    engine_attempts: int = 2  # that ended with their engine: what ends engines is not sent to every one of them

    @property
    def lease(self) -> float:
        """The worker's lease."""
        return self.lease_ms / 1000

    @property
    def row_lease(self) -> float:
        """How long the row of a job is left alone by the sweeper: longer than the lease, renewed by the web process."""
        return self.lease * 1.5

    @property
    def row_renewal(self) -> float:
        """How often a web process renews the rows of its jobs."""
        return self.lease / 2


def timings() -> Timings:
    """From KASBAH_LEASE_MS, KASBAH_LOOK_MS, KASBAH_QUEUE_WAIT_S and KASBAH_STORE_PATIENCE_S. Raises SettingError."""
    standard = Timings()
    return Timings(
        lease_ms=env.integer("LEASE_MS", standard.lease_ms, least=100, most=HOUR * 1000),
        look=env.integer("LOOK_MS", round(standard.look * 1000), least=10, most=HOUR * 1000) / 1000,
        queue_wait=env.number("QUEUE_WAIT_S", standard.queue_wait, least=0, most=DAY),
        store_patience=env.number("STORE_PATIENCE_S", standard.store_patience, least=0, most=DAY),
    )
