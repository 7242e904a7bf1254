"""The keys of a running worker: whom it believes, what it opens, and how its own is replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from inference_worker.contract import enrolment, keys, sealing
from inference_worker.contract.messages import Assignment, KeyChange, SealedKey, checked
from inference_worker.contract.signing import Purpose, Signer, Verifier, b64
from inference_worker.identity import NEXT_KEY, Identity, State
from inference_worker.keyring import KeyRing

SITE = "0190a5d0-0000-7000-8000-000000000001"


class FakeStore:
    """Notes commands."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    async def send(self, *command: Any, **_: Any) -> None:
        self.sent.append(command)


class Node:
    """A worker's state folder and what runs with it."""

    def __init__(self, folder: Path) -> None:
        self.state, self.store = State(folder), FakeStore()
        self.control = Signer(Ed25519PrivateKey.generate())
        self.state.signer()
        self.state.keep(enrolment.Answer(nonce="n", worker="w", site=SITE, control_keys=[raw(self.control)]), "paris")
        self.identity = self.load()
        self.ring = self.made()

    def load(self) -> Identity:
        """As after a restart."""
        identity = self.state.load("paris")
        assert identity is not None
        return identity

    def made(self, *, rotate: bool = False) -> KeyRing:
        return KeyRing(self.store, self.identity, self.state, rotate=rotate)  # type: ignore[arg-type]

    def assignment(self, *site_keys: X25519PrivateKey, **fields: Any) -> Assignment:
        """What the control plane wants."""
        public = self.identity.box_key.public_key()
        boxes = [sealing.seal_site_key(key, worker="w", site=SITE, box_key=public) for key in site_keys]
        return Assignment(
            worker="w", revision=1, state="active", deployments=[], issued=0,
            site_keys=[SealedKey(key_id=name, box=b64(box)) for name, box in boxes], **fields,
        )  # fmt: skip

    async def told(self) -> tuple[KeyChange, list[str]]:
        """What it says of its new key, and both tokens."""
        task = asyncio.create_task(self.ring.run())
        try:
            async with asyncio.timeout(2):
                while not self.store.sent:  # noqa: ASYNC110 - the ring's own task works meanwhile
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
        *_, kind, tokens = self.store.sent[-1]
        assert kind == keys.KEY_CHANGE
        by_old, by_new = tokens.split(" ")
        old = Verifier([self.identity.signer.public])
        return checked(old, Purpose.IDENTITY, by_old, KeyChange), [by_old, by_new]


def raw(signer: Signer) -> str:
    return b64(signer.public.public_bytes_raw())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "state")


def test_it_believes_whom_the_assignment_names_over_restarts_too(node: Node) -> None:
    following = Signer(Ed25519PrivateKey.generate())
    node.ring.follow(node.assignment(control_keys=[raw(node.control), raw(following)]))
    assert node.identity.control.key_ids == sorted([node.control.key_id, following.key_id])
    node.ring.follow(node.assignment(control_keys=[raw(following)]))
    assert node.identity.control.key_ids == node.load().control.key_ids == [following.key_id]
    for kept in ([], ["x"], ["AAAA"]):
        node.ring.follow(node.assignment(control_keys=kept))
        assert node.identity.control.key_ids == [following.key_id], "an assignment never leaves it without any"


def test_it_opens_with_the_keys_of_the_assignment_and_keeps_none_on_disk(node: Node) -> None:
    first, second = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    node.ring.follow(node.assignment(first, second))
    assert [key.private_bytes_raw() for key in node.identity.site_keys.values()] == [
        first.private_bytes_raw(),
        second.private_bytes_raw(),
    ]
    node.ring.follow(node.assignment(second))
    assert len(node.identity.site_keys) == 1
    files = b"".join(path.read_bytes() for path in node.state.folder.iterdir())
    for key in (first, second):
        assert key.private_bytes_raw() not in files
        assert b64(key.private_bytes_raw()).encode() not in files
    assert node.load().site_keys == {}
    node.ring.follow(node.assignment())
    assert node.identity.site_keys == {}, "revoked or not let in: nothing"


def test_a_key_sealed_for_another_worker_is_of_no_use(node: Node) -> None:
    box = sealing.seal_site_key(
        X25519PrivateKey.generate(), worker="w", site=SITE, box_key=X25519PrivateKey.generate().public_key()
    )
    stolen = Assignment(
        worker="w", revision=1, state="active", deployments=[], issued=0,
        site_keys=[SealedKey(key_id=box[0], box=b64(box[1])), SealedKey(key_id="x", box="?")],
    )  # fmt: skip
    node.ring.follow(stolen)
    assert node.identity.site_keys == {}


async def test_its_own_key_is_replaced_when_asked_and_counts_when_named(node: Node) -> None:
    site_key, old = X25519PrivateKey.generate(), node.identity.signer.key_id
    node.ring.follow(node.assignment(site_key, identity=old, rotate="another"))
    node.ring.follow(node.assignment(site_key, identity=old, rotate=old))
    said, (_, by_new) = await node.told()
    new = Verifier.from_raw(node.state.next_signer().public.public_bytes_raw())
    assert checked(new, Purpose.IDENTITY, by_new, KeyChange) == said
    assert (said.old_key, said.new_key) == (old, raw(node.state.next_signer()))
    assert node.identity.signer.key_id == node.load().signer.key_id == old, "not before the control plane says so"

    following = node.state.next_signer().key_id
    node.identity = node.load()  # a restart in between
    node.ring = node.made()
    public = node.state.box_key(NEXT_KEY).public_key()
    name, box = sealing.seal_site_key(site_key, worker="w", site=SITE, box_key=public)
    node.ring.follow(
        Assignment(
            worker="w",
            revision=2,
            state="active",
            deployments=[],
            issued=0,
            identity=following,
            site_keys=[SealedKey(key_id=name, box=b64(box))],
        )
    )
    assert node.identity.signer.key_id == node.load().signer.key_id == following
    assert list(node.identity.site_keys) == [name], "what was sealed for the new key opens at once"
    assert not (node.state.folder / NEXT_KEY).exists()


async def test_the_flag_asks_too(node: Node) -> None:
    node.ring = node.made(rotate=True)
    said, _ = await node.told()
    assert said.old_key == node.identity.signer.key_id


def test_a_name_that_is_not_here_changes_nothing(node: Node) -> None:
    """The state folder was copied, and the copy has replaced the key."""
    before = node.identity.signer.key_id
    node.ring.follow(node.assignment(identity="0" * 16))
    node.state.next_signer()
    node.ring.follow(node.assignment(identity="0" * 16))
    assert node.identity.signer.key_id == node.load().signer.key_id == before
