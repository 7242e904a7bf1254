"""Signed notes: the specification's own example, and what must be refused."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kasbah.audit.log.note import COSIGNATURE, ED25519, BadNote, Checkpoint, Key, Note, sign

# C2SP signed-note, section "Example".
ROOT = base64.b64encode(bytes(32)).decode()
MATERIAL = base64.b64encode(b"\x01" + bytes(32)).decode()
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def pair(name: str, kind: int = ED25519) -> tuple[Key, Callable[[bytes], bytes]]:
    private = Ed25519PrivateKey.generate()
    return Key(name, kind, private.public_key().public_bytes_raw()), private.sign


def test_the_specifications_example_holds() -> None:
    key = Key.parse(VKEY)
    assert key.vkey() == VKEY
    note = Note.parse(EXAMPLE)
    assert note.verified([key]) == {key: 0}
    assert str(note) == EXAMPLE
    with pytest.raises(BadNote, match="does not hold"):
        Note.parse(EXAMPLE.replace("example message", "other message")).verified([key])


def test_a_checkpoint_with_a_witness() -> None:
    log, log_private = pair("kasbah.test/audit/a")
    witness, witness_private = pair("witness.test/w1", COSIGNATURE)
    text = Checkpoint(log.name, 3, bytes(range(32))).text()
    line = sign(text, log, log_private)
    cosigned = sign(text, witness, witness_private, time=1679315147)
    note = Note.parse(str(Note(text, (line, cosigned, cosigned))))
    assert note.verified([log, witness]) == {log: 0, witness: 1679315147}  # the same witness counts once
    assert Checkpoint.parse(note.text) == Checkpoint(log.name, 3, bytes(range(32)))
    later = sign(text, witness, witness_private, time=1679315148)
    moved = Note(text, (line, type(later)(later.name, later.id, cosigned.value[:8] + later.value[8:])))
    with pytest.raises(BadNote, match="does not hold"):
        moved.verified([witness])


def test_unknown_keys_do_not_count_and_colliding_ones_do_not_pass() -> None:
    key, private = pair("log")
    stranger, _ = pair("log")
    note = Note("text\n", (sign("text\n", key, private),))
    assert note.verified([stranger]) == {}
    pretended = type(note.signatures[0])("log", stranger.id, note.signatures[0].value)
    with pytest.raises(BadNote):
        Note("text\n", (pretended,)).verified([stranger])


@pytest.mark.parametrize(
    "broken",
    ["", "text\n", "text\n\n", "text\n\nname QUJDREVGRw==\n", "text\n\n— name %%%\n", "te\x07xt\n\n— n QUJDREVGRw==\n"],
)
def test_malformed_notes(broken: str) -> None:
    with pytest.raises(BadNote):
        Note.parse(broken)


@pytest.mark.parametrize(
    "text", ["a\n1\n", "a\n01\n" + "A" * 43 + "=\n", "a\n-1\nAAAA\n", "\n1\nAAAA\n", "a\n٣\nAAAA\n"]
)
def test_malformed_checkpoints(text: str) -> None:
    with pytest.raises(BadNote):
        Checkpoint.parse(text)


@pytest.mark.parametrize("vkey", ["", "a+b", VKEY.replace("530d903a", "530d903b"), VKEY[:-4], "a b+00000000+AAAA"])
def test_malformed_keys(vkey: str) -> None:
    with pytest.raises(BadNote):
        Key.parse(vkey)


@pytest.mark.parametrize(
    "text",
    [
        "log\n" + "9" * 5000 + "\n" + ROOT + "\n",
        "log\n" + "9" * 17 + "\n" + ROOT + "\n",
        "log\n\u0665\n" + ROOT + "\n",
        "log\n05\n" + ROOT + "\n",
        "log\n5\n\u00e9\n",
        "log\n5\n" + ROOT[:-1] + "\n",
    ],
)
def test_no_number_and_no_letter_makes_a_checkpoint_fail_otherwise(text: str) -> None:
    with pytest.raises(BadNote):
        Checkpoint.parse(text)


@pytest.mark.parametrize("vkey", ["\udcff+00000000+" + MATERIAL, "log+\u0660+" + MATERIAL, "log+00000000+\u00e9"])
def test_no_letter_makes_a_key_fail_otherwise(vkey: str) -> None:
    with pytest.raises(BadNote):
        Key.parse(vkey)
