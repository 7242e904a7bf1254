"""An attacker with the broker of a site in his hands: the worker itself refuses every ticket that is not right for it.

The real control plane, a real worker process with a fake engine, a real Valkey. Each refusal is on record with its
code, nothing of the job runs, and the control of each attack is the honest job, which does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from inference_worker.contract import keys, sealing
from inference_worker.contract.messages import JobMessage, Payload, RefusalCode, Ticket, now, signed
from inference_worker.contract.signing import Purpose, Signer, b64, unb64
from tests.inference_worker.harness import RunningWorker, celery_envelope, chat, start_worker, wait_for
from tests.serving.conftest import site_servers, stores, world  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from tests.serving.world import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(120)]


@dataclass
class Site:
    """The first site with its worker, and the keys as the tests may take them."""

    world: World
    worker: RunningWorker
    signer: Signer  # the control plane's current one
    store: Any = field(repr=False)

    def job(self, signer: Signer | None = None, *, site: int = 0, **changed: Any) -> JobMessage:
        """A job as the control plane hands it out; `changed` are other words in its ticket."""
        from kasbah.residency.services import tickets
        from kasbah.serving.replysecret import reply_secret

        job, ours = uuid4(), self.world
        body = msgspec.json.encode(chat(f"[[tokens=1 tag={job} ]] hello"))
        plain = Payload(path="/v1/chat/completions", body=body, stream=True, reply_secret=reply_secret(job))
        place = ours.sites[site]
        place.refresh_from_db()
        public = X25519PublicKey.from_public_bytes(bytes(place.sealing_public_key))
        sealed = sealing.seal_payload(msgspec.msgpack.encode(plain), job=str(job), sites={str(place.id): public})
        ticket = tickets.issue(
            self.signer, job=job, attempt=1, tenant=ours.home.tenant.id, deployment=ours.deployment.id,
            policy="p@1", data_class="internal", sites=[place.id], model_digest=ours.version.digest, payload=sealed,
        )  # fmt: skip
        if signer is not None or changed:
            said = msgspec.structs.replace(read(ticket), **changed)
            ticket = signed(signer or self.signer, Purpose.TICKET, said)
        return JobMessage(job=str(job), attempt=1, ticket=ticket, payload=b64(sealed), reply_to="nobody")

    def put(self, message: JobMessage) -> None:
        """Straight into the broker, with the hash that lets it be claimed."""
        queue = keys.queue(str(self.world.deployment.id))
        self.store.hset(keys.job(message.job), "attempt", str(message.attempt))
        self.store.lpush(queue, celery_envelope(message, queue))

    def runs(self, message: JobMessage) -> bool:
        """Whether it is answered."""
        self.put(message)
        frames = keys.frames(message.job, message.attempt)
        wait_for(lambda: self.store.exists(frames) or self.refused() > 0, 10)
        return bool(self.store.exists(frames))

    def started(self, message: JobMessage) -> list[dict[str, Any]]:
        """What its engine was asked of this job."""
        return [line for line in self.worker.ended("start") if message.job in str(line["body"])]

    def refused(self) -> int:
        """How many refusals are on record."""
        return len(recorded())

    def refusal(self, message: JobMessage) -> str:
        """Put it, and answer the code that is recorded of it."""
        before = self.refused()
        self.put(message)
        wait_for(lambda: self.refused() > before, 10, every=0.1)
        last = recorded()[-1]
        assert (last["site"], last["worker"]) == (str(self.world.sites[0].id), self.worker.id)
        assert (last["outcome"], last["details"]["attempt"]) == ("denied", message.attempt)
        return str(last["reason"])


def read(ticket: str) -> Ticket:
    """What it says."""
    return msgspec.json.decode(unb64(ticket.split(".")[1]), type=Ticket)


def recorded() -> list[dict[str, Any]]:
    """The events of refusals, oldest first."""
    from tests import factories

    return [event for event in factories.events_of(None) if event["type"] == "inference.refused"]


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:  # noqa: F811
    import redis

    from kasbah.residency.services import control_keys
    from tests.serving.world import Housekeeping

    store = redis.Redis.from_url(world.stores[0].url)
    with (
        store,
        Housekeeping(),
        start_worker(world.stores[0].url, tmp_path / "w", token=world.token(), models=world.models) as worker,
    ):
        worker.await_ready()
        yield Site(world, worker, control_keys().current, store)


def flipped(text: str) -> str:
    """One letter of it another."""
    at = len(text) // 2
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def other(site: Site, **fields: Any) -> JobMessage:
    return msgspec.structs.replace(site.job(), **fields)


def altered(site: Site) -> JobMessage:
    message = site.job()
    name, body, signature = message.ticket.split(".")
    longer = unb64(body).replace(b'"expires":', b'"expires":9')
    return msgspec.structs.replace(message, ticket=f"{name}.{b64(longer)}.{signature}")


def under_our_key_id(site: Site) -> JobMessage:
    message = site.job(Signer(Ed25519PrivateKey.generate()))
    return msgspec.structs.replace(message, ticket=".".join([site.signer.key_id, *message.ticket.split(".")[1:]]))


def as_an_assignment(site: Site) -> JobMessage:
    message = site.job()
    return msgspec.structs.replace(message, ticket=signed(site.signer, Purpose.ASSIGNMENT, read(message.ticket)))


def of_another_site(site: Site) -> JobMessage:
    """Made for the second site, whose workers hold other keys, and carried to the first one's queue."""
    return site.job(site=1)


def of_another_site_with_ours_claimed(site: Site) -> JobMessage:
    """The same, were the ticket to name our site: it is not sealed for us."""
    message = site.job(site=1)
    ours = msgspec.structs.replace(read(message.ticket), sites=[str(site.world.sites[0].id)])
    return msgspec.structs.replace(message, ticket=signed(site.signer, Purpose.TICKET, ours))


def two_jobs_crossed(site: Site) -> JobMessage:
    return other(site, payload=site.job().payload)


ATTACKS: list[tuple[Callable[[Site], JobMessage], RefusalCode]] = [
    (lambda site: site.job(Signer(Ed25519PrivateKey.generate())), RefusalCode.BAD_TICKET),
    (under_our_key_id, RefusalCode.BAD_TICKET),
    (altered, RefusalCode.BAD_TICKET),
    (as_an_assignment, RefusalCode.BAD_TICKET),
    (lambda site: other(site, ticket=site.job().ticket), RefusalCode.BAD_TICKET),
    (lambda site: other(site, attempt=2), RefusalCode.BAD_TICKET),
    (lambda site: site.job(expires=now() - 1), RefusalCode.EXPIRED),
    (of_another_site, RefusalCode.WRONG_SITE),
    (of_another_site_with_ours_claimed, RefusalCode.CANNOT_OPEN),
    (lambda site: site.job(deployment=str(uuid4())), RefusalCode.WRONG_DEPLOYMENT),
    (lambda site: site.job(model_digest="0" * 64), RefusalCode.WRONG_MODEL),
    (two_jobs_crossed, RefusalCode.PAYLOAD_ALTERED),
    (lambda site: other(site, payload=flipped(site.job().payload)), RefusalCode.PAYLOAD_ALTERED),
]


def test_every_hostile_ticket_is_refused_and_recorded_and_the_honest_one_runs(site: Site) -> None:
    honest = site.job()
    assert site.runs(honest), "the control: unaltered, it runs"
    assert site.started(honest)
    for attack, code in ATTACKS:
        message = attack(site)
        assert site.refusal(message) == code, attack
        assert not site.started(message)
        assert not site.store.exists(keys.frames(message.job, message.attempt))
    assert site.refusal(honest) == RefusalCode.REPLAYED
    assert len(site.started(honest)) == 1
    assert len(recorded()) == len(ATTACKS) + 1
    report = site.worker.report()
    assert report is not None
    wait_for(lambda: (found := site.worker.report()) and found.refused == len(ATTACKS) + 1)


def test_tickets_of_keys_that_are_retired_for_long_or_revoked_are_refused(site: Site) -> None:
    from django.utils import timezone

    from kasbah.residency.models import KeyState, SigningKey
    from kasbah.residency.services import control_keys, signing_keys
    from kasbah.serving.services.keys import signing_rotation
    from tests.factories import SYSTEM

    def rotate() -> None:
        signing_keys.prepare_signing_key(SYSTEM)
        wait_for(lambda: not signing_rotation().following, 15, every=0.1)

    def trusts() -> set[str]:
        report = site.worker.report()
        return set(report.trusts) if report else set()

    first = site.signer
    rotate()
    assert site.runs(site.job()), "just retired: tickets that are under way still hold"
    SigningKey.objects.filter(state=KeyState.RETIRED).update(retired_at=timezone.now() - timedelta(hours=1))
    wait_for(lambda: trusts() == {control_keys().current.key_id}, 10, every=0.1)
    assert site.refusal(site.job()) == RefusalCode.BAD_TICKET

    site.signer = second = control_keys().current
    control = site.job()
    site.put(control)
    wait_for(lambda: site.store.exists(keys.frames(control.job, 1)))
    rotate()
    signing_keys.revoke_signing_key(SYSTEM, second.key_id)
    since = time.monotonic()
    wait_for(lambda: second.key_id not in trusts(), 10, every=0.05)
    assert time.monotonic() - since < 5
    assert site.refusal(site.job()) == RefusalCode.BAD_TICKET
    assert first.key_id in control_keys().verifier.key_ids, "a retired key is still published"
    assert second.key_id not in control_keys().verifier.key_ids
