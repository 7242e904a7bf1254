"""The keys of a log, one after the other: each vouches for its neighbours, and each signed in its own time."""

from __future__ import annotations

import base64
import re

from kasbah.audit.export.verifier.failure import Failed
from kasbah.audit.export.verifier.notes import COUNT, Key, checkpoint_of, signed_by

SUCCESSION = "kasbah-key-succession@v1"
MAX_DIGITS = 16
BROKEN = "key_succession_invalid"


class LogKeys:
    """What leads from the key that was given to those before and after it. `turns`: at which (size, root) one ended."""

    def __init__(self, given: Key, notes: list[str]) -> None:
        self.name = given.name
        self.keys: list[Key] = []
        self.turns: list[tuple[int, bytes]] = []
        for number, data in enumerate(notes):
            self._take(data, f"key succession {number + 1}")
        self.keys = self.keys or [given]
        if given.public not in [key.public for key in self.keys]:
            raise Failed("unknown_key", f"the key that was given is none of those that the log of {given.name} had")

    def _take(self, data: str, what: str) -> None:
        try:
            lines = data.partition("\n\n")[0].split("\n")
            header, name, size, root, before, after = lines
            old, new = Key(before, types=(1,)), Key(after, types=(1,))
            _, found = signed_by(data, [old, new], what)
            turn = int(size[:MAX_DIGITS]), base64.b64decode(root, validate=True)
        except (Failed, ValueError) as error:
            raise Failed(BROKEN, f"{what}: {error}") from error
        last = self.keys[-1].public if self.keys else old.public
        if not re.fullmatch(COUNT, size) or (header, name, old.name, new.name, old.public) != (
            SUCCESSION,
            *(self.name,) * 3,
            last,
        ):
            raise Failed(BROKEN, f"{what}: it is about another log, or does not go on from the key before")
        if found != {old, new}:
            raise Failed(BROKEN, f"{what}: both keys must have signed it")
        if self.turns and turn[0] < self.turns[-1][0]:
            raise Failed(BROKEN, f"{what}: it takes over before the key that it follows")
        self.keys = [*(self.keys or [old]), new]
        self.turns.append(turn)

    def checkpoint(self, data: str, what: str = "checkpoint") -> tuple[int, bytes]:
        """(size, root) of a checkpoint that the log's key of that time signed."""
        text, found = signed_by(data, self.keys, what)
        if not found:
            raise Failed("unknown_key", f"{what}: not signed by the key that was given ({self.name})")
        size, root = checkpoint_of(text, self.name, what)
        if not any(key in found and self._signs(at, size) for at, key in enumerate(self.keys)):
            raise Failed(BROKEN, f"{what}: a log of {size} events was signed by another of its keys")
        return size, root

    def _signs(self, at: int, size: int) -> bool:
        """Whether the key at this place signed for so many events: from when it took over until the next did."""
        first = self.turns[at - 1][0] + 1 if at else 0
        return first <= size and (at == len(self.turns) or size <= self.turns[at][0])

    def shown(self) -> list[str]:
        """Lines to print."""
        return [
            f"key        changed after {size} events, from {old.id.hex()} to {new.id.hex()}, which vouch for each other"
            for (size, _), old, new in zip(self.turns, self.keys, self.keys[1:], strict=False)
        ]
