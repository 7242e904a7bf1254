"""The keys of a worker while it runs: whom it believes, what it opens, and who it is.

Whom it believes and what it opens it learns from assignments. Its own key it replaces itself: a new one is made, the
control plane is told of it in words that both keys have signed, and it counts from the assignment on that names it.
"""

from __future__ import annotations

import asyncio
import logging

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from redis.exceptions import RedisError

from inference_worker.contract import keys, sealing
from inference_worker.contract.messages import Assignment, KeyChange, now, signed
from inference_worker.contract.signing import BadToken, Purpose, Verifier, b64, unb64
from inference_worker.identity import NEXT_KEY, Identity, State
from inference_worker.store import Store, StoreAway

log = logging.getLogger(__name__)

ASK_EVERY = 2.0  # seconds, until the control plane has taken a new key


class KeyRing:
    """Changes the keys in `identity`, in place. With `rotate` the worker's own key is replaced at the start."""

    def __init__(self, store: Store, identity: Identity, state: State, *, rotate: bool = False) -> None:
        self._store, self._identity, self._state = store, identity, state
        self._changing = asyncio.Event()
        self.trouble = ""  # why a key cannot be used
        if rotate:
            self._changing.set()

    def follow(self, assignment: Assignment) -> None:
        """Take over the keys of an assignment, whose signature was checked."""
        identity, self.trouble = self._identity, ""
        if assignment.control_keys:
            try:
                identity.control = Verifier.from_raw(*(unb64(key) for key in assignment.control_keys))
            except (BadToken, ValueError):
                log.error("the control plane's keys in the assignment are none; those before stay")  # noqa: TRY400
                self.trouble = "the control plane's keys in its assignment are none"
            else:
                self._state.keep_control_keys(assignment.control_keys)
        if assignment.identity and assignment.identity != identity.signer.key_id:
            self._adopt(assignment.identity)
        if assignment.rotate and assignment.rotate == identity.signer.key_id:
            self._changing.set()
        identity.site_keys = self._opened(assignment)
        identity.cache_epoch = assignment.cache_epoch

    def _adopt(self, named: str) -> None:
        following = self._state.next_signer() if (self._state.folder / NEXT_KEY).exists() else None
        if following is None or following.key_id != named:
            log.error("the control plane knows this worker under key %s, which is not here; enrol it anew", named)
            self.trouble = "the control plane knows it under a key that it does not have; enrol it anew"
            return
        self._state.adopt_next()
        self._identity.signer, self._identity.box_key = following, self._state.box_key()
        self._changing.clear()
        log.info("the identity key is %s from now on", named)

    def _opened(self, assignment: Assignment) -> dict[str, X25519PrivateKey]:
        identity = self._identity
        opened: dict[str, X25519PrivateKey] = {}
        for item in assignment.site_keys:
            try:
                opened[item.key_id] = sealing.open_site_key(
                    unb64(item.box),
                    worker=identity.worker,
                    site=identity.site,
                    name=item.key_id,
                    box_key=identity.box_key,
                )
            except (sealing.CannotOpen, BadToken) as error:
                log.error("a key of the site cannot be used: %s", error)  # noqa: TRY400 - the reason is the message
                self.trouble = f"a key of the site cannot be used: {error}"
                if item.key_id in identity.site_keys:
                    opened[item.key_id] = identity.site_keys[item.key_id]
        return opened

    async def run(self) -> None:
        """While the worker's own key is to be replaced, say so again and again."""
        while True:
            await self._changing.wait()
            await self._ask()
            await asyncio.sleep(ASK_EVERY)

    async def _ask(self) -> None:
        old, new = self._identity.signer, self._state.next_signer()
        change = KeyChange(
            worker=self._identity.worker,
            site=self._identity.site,
            old_key=old.key_id,
            new_key=b64(new.public.public_bytes_raw()),
            box_key=b64(self._state.box_key(NEXT_KEY).public_key().public_bytes_raw()),
            time=now(),
        )
        tokens = " ".join(signed(signer, Purpose.IDENTITY, change) for signer in (old, new))
        command = ("XADD", keys.REPORTS, "MAXLEN", "~", keys.REPORTS_MAXLEN, "*", keys.KEY_CHANGE, tokens)
        try:
            await self._store.send(*command)
        except (StoreAway, RedisError) as error:
            log.warning("the new identity key could not be told: %s", type(error).__name__)
