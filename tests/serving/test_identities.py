"""A worker's identity key is replaced by words that both keys have signed, and by nothing else."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.utils import timezone

from inference_worker.contract.messages import Hardware, KeyChange, Report, now, signed
from inference_worker.contract.signing import BadToken, Purpose, Signer, b64, key_id
from kasbah.common import rls
from kasbah.residency.models import SiteKey
from kasbah.serving import receipts
from kasbah.serving.dispatch.capacity import check_report
from kasbah.serving.housekeeping import identities
from kasbah.serving.housekeeping.identities import HANDOVER, record_of, take_change
from kasbah.serving.models import Worker, WorkerState
from kasbah.serving.services import revoke_worker
from tests import factories
from tests.factories import SYSTEM
from tests.serving.stand_in import StandIn
from tests.serving.world import World, stand_in

pytestmark = pytest.mark.django_db(transaction=True)


class Changing:
    """A worker that has made a new key."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.standing: StandIn = stand_in(world)
        self.old, self.new = self.standing.signer, Signer.from_raw(os.urandom(32))
        self.box_key = os.urandom(32)

    def change(self, **changed: Any) -> KeyChange:
        """What it says."""
        said = KeyChange(
            worker=self.standing.worker,
            site=self.standing.site,
            old_key=self.old.key_id,
            new_key=raw(self.new),
            box_key=b64(self.box_key),
            time=now(),
        )
        return msgspec.structs.replace(said, **changed)

    def words(self, by_old: Signer | None = None, by_new: Signer | None = None, **changed: Any) -> str:
        """Signed by both, or by whom is given."""
        said, purpose = self.change(**changed), Purpose.IDENTITY
        return f"{signed(by_old or self.old, purpose, said)} {signed(by_new or self.new, purpose, said)}"

    def take(self, words: str) -> None:
        """As housekeeping does."""
        take_change(self.world.sites[0], words)

    @property
    def row(self) -> Worker:
        """As it is kept."""
        with rls.platform_scope():
            return Worker.objects.prefetch_related("former_keys").get(pk=self.standing.worker)

    def report(self, signer: Signer) -> str:
        """A report of it that this key signed."""
        said = Report(
            worker=self.standing.worker, site=self.standing.site, sequence=1, time=now(), state="active", served=[],
            hardware=Hardware(), engine="x",
        )  # fmt: skip
        return signed(signer, Purpose.REPORT, said)


def raw(signer: Signer) -> str:
    """Its public key, as messages have it."""
    return b64(signer.public.public_bytes_raw())


@pytest.fixture
def changing(world: World) -> Changing:
    return Changing(world)


def test_the_new_key_counts_and_the_old_one_for_the_hand_over_alone(changing: Changing) -> None:
    changing.take(changing.words())
    row = changing.row
    assert (b64(bytes(row.public_key)), bytes(row.box_key)) == (raw(changing.new), changing.box_key)
    for signer in (changing.old, changing.new):
        assert check_report(record_of(row), changing.report(signer)).sequence == 1
    [former] = row.former_keys.all()
    assert timedelta(0) < former.valid_until - timezone.now() <= HANDOVER
    assert [event["details"]["new_key"] for event in events()] == [changing.new.key_id]


def test_after_the_hand_over_the_old_key_counts_no_more(changing: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "HANDOVER", timedelta(0))
    changing.take(changing.words())
    with pytest.raises(BadToken, match="unknown key"):
        check_report(record_of(changing.row), changing.report(changing.old))
    assert check_report(record_of(changing.row), changing.report(changing.new))
    assert changing.row.former_keys.count() == 1, "kept, for the receipts of its time"


def test_what_is_kept_in_memory_forgets_the_old_key_by_itself(changing: Changing) -> None:
    changing.take(changing.words())
    kept = record_of(changing.row)
    by_key = receipts.keys_of({kept.id: kept})
    token = changing.report(changing.old)
    assert receipts.signer_of(token, by_key)[0] == kept
    passed = dataclasses.replace(kept, former=tuple((key, 0.0) for key, _ in kept.former))
    with pytest.raises(receipts.UnknownWorker):
        receipts.signer_of(token, dict.fromkeys(by_key, passed))


def events() -> list[dict[str, Any]]:
    return [event for event in factories.events_of(None) if event["type"] == "worker.key_changed"]


def test_the_same_words_again_change_nothing(changing: Changing) -> None:
    words = changing.words()
    changing.take(words)
    changing.take(words)
    changing.take(changing.words(time=now() + 1))
    assert len(events()) == 1
    assert changing.row.former_keys.count() == 1


STRANGER = Signer.from_raw(b"s" * 32)
FORGERIES: dict[str, Callable[[Changing], str]] = {
    "by a stranger": lambda worker: worker.words(by_old=STRANGER),
    "without the old key": lambda worker: worker.words(by_old=worker.new),
    "without the new key": lambda worker: worker.words(by_new=worker.old),
    "one word": lambda worker: worker.words().partition(" ")[0],
    "none": lambda _: "",
    "another worker": lambda worker: worker.words(worker=str(worker.world.deployment.id)),
    "another site": lambda worker: worker.words(site=str(worker.world.sites[1].id)),
    "another old key": lambda worker: worker.words(old_key="0" * 16),
    "no key": lambda worker: worker.words(new_key="x"),
    "a short box key": lambda worker: worker.words(box_key=b64(b"x")),
    "two changes": lambda worker: worker.words().partition(" ")[0] + " " + worker.words(time=1).partition(" ")[2],
    "another purpose": lambda worker: " ".join(
        signed(signer, Purpose.REPORT, worker.change()) for signer in (worker.old, worker.new)
    ),
}


@pytest.mark.parametrize("make", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_words_change_nothing(changing: Changing, make: Callable[[Changing], str]) -> None:
    with pytest.raises(BadToken):
        changing.take(make(changing))
    assert bytes(changing.row.public_key) == changing.old.public.public_bytes_raw()
    assert not events()
    changing.take(changing.words())
    assert len(events()) == 1, "the control: the honest words are taken"


def test_a_key_that_is_or_was_in_use_is_not_taken(changing: Changing) -> None:
    other = Changing(changing.world)
    changing.new = other.old
    with pytest.raises(BadToken, match="in use"):
        changing.take(changing.words())
    other.take(other.words())
    with pytest.raises(BadToken, match="in use"):
        changing.take(changing.words())


def test_the_old_key_cannot_take_the_identity_back(changing: Changing) -> None:
    changing.take(changing.words())
    thief = Signer.from_raw(os.urandom(32))
    said = changing.change(new_key=raw(thief))
    with pytest.raises(BadToken):
        changing.take(" ".join(signed(signer, Purpose.IDENTITY, said) for signer in (changing.old, thief)))


def test_a_revoked_worker_changes_nothing_and_is_listed(changing: Changing) -> None:
    row = changing.row
    revoke_worker(SYSTEM, row)
    with pytest.raises(BadToken):
        changing.take(changing.words())
    with rls.platform_scope():
        assert list(Worker.objects.filter(state=WorkerState.REVOKED).values_list("id", flat=True)) == [row.id]
        assert SiteKey.objects.filter(site=row.site, state="next").count() == 1
    assert key_id(bytes(row.public_key)) == changing.old.key_id
