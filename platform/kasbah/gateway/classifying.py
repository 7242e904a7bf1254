"""Looks through the text of a request for what its policy's classifier names, beside the event loop when it is long.

Whatever goes wrong here denies the request: what nobody looked at is not sent anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from django.utils.module_loading import import_string

from kasbah.common import env
from kasbah.common.shares import FairQueue
from kasbah.gateway import refusals
from kasbah.residency.services.classification import JOINT, UNREAD, look, text_of

# Of a normalised text, how often which kind of content stands in it.
Detector = Callable[[str], Mapping[str, int]]

SHORT = 4096  # bytes that are looked through at once: 0.2 ms, and 6 ms when somebody means harm
PATIENCE = 5.0  # seconds
THREADS = 2
KIND = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")

logger = logging.getLogger(__name__)


class Classifying:
    """The built-in detectors, and the organisation's own where KASBAH_CLASSIFIER names one."""

    def __init__(self, own: Detector | None, patience: float = PATIENCE) -> None:
        self._own = own
        self._patience = patience
        # Two: one long text does not make the next one wait, and many leave the processor to streams.
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="classifying")
        self._turns = FairQueue("A thread that looks through texts", THREADS, patience)

    async def look(self, body: bytes, detect: Iterable[str], tenant: Hashable = None) -> dict[str, int]:
        """Which kinds stand in what is sent to the model, and how often. Raises Unavailable."""
        try:
            if self._own is None and len(body) <= SHORT:
                return _look(None, body, detect)
            async with asyncio.timeout(self._patience):
                # Shielded: a thread that is given up goes on, and keeps its tenant's turn until it ends.
                return await asyncio.shield(asyncio.create_task(self._look_in_turn(body, tuple(detect), tenant)))
        except Exception as error:
            # Its text may quote what was looked through.
            logger.error("A text could not be looked through: %s", type(error).__name__)  # noqa: TRY400
            raise refusals.not_classified() from error

    async def _look_in_turn(self, body: bytes, detect: tuple[str, ...], tenant: Hashable) -> dict[str, int]:
        async with self._turns.turn(tenant):
            return await asyncio.get_running_loop().run_in_executor(self._threads, _look, self._own, body, detect)

    def close(self) -> None:
        """Look at nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def own_detector() -> Detector | None:
    """What KASBAH_CLASSIFIER names, such as acme.detectors.find. Raises SettingInvalid where that is no function."""
    path = env.value("CLASSIFIER", "")
    if not path:
        return None
    try:
        found: Detector = import_string(path)
    except Exception as error:  # a module of the operator's own runs here, and may raise anything
        raise env.invalid("CLASSIFIER", f"package.module.function ({type(error).__name__}: {error})", path) from error
    if not callable(found):
        raise env.invalid("CLASSIFIER", "package.module.function, and this is no function", path)
    return found


def _look(own: Detector | None, body: bytes, detect: Iterable[str]) -> dict[str, int]:
    text, whole = text_of(body)
    found = look(text, detect)
    if not whole:
        found[UNREAD] = 1
    for kind, count in (own(text.replace(JOINT, "\n")) if own is not None else {}).items():
        if not KIND.fullmatch(kind) or type(count) is not int or count < 0:
            raise ValueError("KASBAH_CLASSIFIER answers kinds (letters, digits, hyphens) and counts")
        if count:
            found[kind] = found.get(kind, 0) + count
    return found
