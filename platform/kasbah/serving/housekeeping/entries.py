"""The stream of reports of one site: enrolments, key changes, refusals, reports. Each entry is dealt with once.

Anybody who may write to the site's store may write to it. An entry that is not what it must be is dropped, counted and
logged; whatever one holds, it keeps no other from being read, and it is never read again.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import cached_property

from inference_worker.contract import keys
from inference_worker.contract.bounds import TOKEN, line
from inference_worker.contract.loggate import LogGate
from inference_worker.contract.messages import Refusal, checked
from inference_worker.contract.signing import BadToken, Purpose, Verifier, key_id
from kasbah.common import rls
from kasbah.common.isolation import Isolation
from kasbah.serving import receipts
from kasbah.serving.dispatch.capacity import check_report
from kasbah.serving.dispatch.store import StoreAway
from kasbah.serving.housekeeping import enrol, identities, refusals, troubles
from kasbah.serving.housekeeping.identities import record_of
from kasbah.serving.housekeeping.sites import Reached
from kasbah.serving.models import UNHEARD, Worker

COUNT = 500
KINDS = (keys.ENROL, keys.KEY_CHANGE, keys.REFUSAL, keys.REPORT)
NOT_BELIEVED = "not believed"

logger = logging.getLogger(__name__)
gate, isolation = LogGate(), Isolation(logger)


class Entries:
    """What lies in the stream of one site."""

    def __init__(self, reached: Reached) -> None:
        self._reached = reached
        self.heard: Counter[str] = Counter()

    def read(self) -> Counter[str]:
        """Take what lies there. An entry is removed once it was dealt with; those after an outage stay. Raises
        StoreAway."""
        done: list[bytes] = []
        try:
            for entry, fields in self._reached.store.entries(keys.REPORTS, COUNT):
                for name, value in fields.items():
                    self._take(name.decode("ascii", "replace"), value)
                done.append(entry)
        finally:
            self._reached.store.remove(keys.REPORTS, done)
        return self.heard

    def _take(self, kind: str, value: bytes) -> None:
        slug, shown = self._reached.site.slug, line(kind, 20)
        self.heard[kind if kind in KINDS else "unknown"] += 1
        faults = isolation.faults
        with isolation.apart(f"An entry ({shown}) of the reports of site {slug}", StoreAway):
            try:
                self._act(kind, value)
            except (BadToken, ValueError) as error:  # a broker is not trusted: bad entries are expected
                self.heard[NOT_BELIEVED] += 1
                if gate.due(f"{slug} {kind}", str(error)):
                    logger.warning("An entry (%s) of the reports of site %s is dropped: %s", shown, slug, error)
        self.heard[NOT_BELIEVED] += isolation.faults - faults

    def _act(self, kind: str, value: bytes) -> None:
        if kind == keys.ENROL:
            enrol.answer(self._reached, value)
            return
        if len(value) > TOKEN * 2 or kind not in KINDS:
            raise BadToken("an entry of no known kind or size")
        text = value.decode("ascii")
        if kind == keys.KEY_CHANGE:
            identities.take_change(self._reached.site, text)
        elif kind == keys.REFUSAL:
            worker, public_key = self._signer(text)
            refusals.take(self._reached, worker, checked(Verifier.from_raw(public_key), Purpose.REPORT, text, Refusal))
        else:
            self._look_at_report(text)

    def _look_at_report(self, token: str) -> None:
        """What the liveness key alone cannot tell: that two processes take turns, or that a worker is astray."""
        worker, _ = self._signer(token, anywhere=True)
        report = check_report(record_of(worker), token)
        if worker.site_id != self._reached.site.id:
            text = f"it is at the broker of site {self._reached.site.slug}: give it the addresses of its own site"
            troubles.keep(worker, troubles.Finding(troubles.STRAY, text))
            return
        starts = list(worker.starts)
        found = troubles.of_start(worker, report)
        with rls.platform_scope():
            fields = troubles.note(worker, found, whole=False) if found else []
            fields += ["starts"] if worker.starts != starts else []
            if fields:
                worker.save(update_fields=fields)

    def _signer(self, token: str, *, anywhere: bool = False) -> tuple[Worker, bytes]:
        """The worker of this site (or of any) that may have signed it, with its key. Raises BadToken."""
        name = token.partition(".")[0]
        worker, public_key = self._workers.get(name, (None, b""))
        if worker is None or not (anywhere or worker.site_id == self._reached.site.id):
            raise receipts.UnknownWorker("signed by no worker known here, or by a key that it has replaced")
        return worker, public_key

    @cached_property
    def _workers(self) -> dict[str, tuple[Worker, bytes]]:
        """Every worker that is heard, by the ids of its valid keys."""
        with rls.platform_scope():
            rows = Worker.objects.exclude(state__in=UNHEARD).select_related("site").prefetch_related("former_keys")
            return {key_id(key): (row, key) for row in rows for key in record_of(row).valid_keys()}
