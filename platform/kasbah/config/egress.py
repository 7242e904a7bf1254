"""The guard of the control plane's own processes, and the thread that brings what it refuses to the ledger.

    guard("serve")

Called when a process starts, before Django is set up (manage.py, the Celery application). What the process may
connect to is its database, its own store, where it listens, what KASBAH_EGRESS_ALLOW names, and each site's broker and
store from the moment that their addresses are opened (residency.services.sites.addresses).
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from django.db import DatabaseError, InterfaceError, connections

from inference_worker.contract import egress
from inference_worker.contract.settings import WRITE_AS
from kasbah.common import env

ALLOWED = "EGRESS_ALLOW"
DATABASES = ("DATABASE_URL", "OWNER_DATABASE_URL")
FORMS = (
    f"it must be an address; {WRITE_AS}",
    "each entry must be host:port, [address]:port or a URL, separated by commas",
)
FIRST_WRITE, NEXT_WRITE = 1.0, 10.0  # seconds after a refusal until it is written; until a failed write is repeated

logger = logging.getLogger(__name__)


def guard(process: str) -> egress.Guard:
    """Refuse from now on what this process has no business with. Raises SettingError for an entry that is none."""
    if (already := egress.installed()) is not None:
        return already
    ledger = Ledger(f"{process}@{socket.gethostname()}"[:120])
    made = egress.Guard("control plane", own_endpoints(), told=ledger.note)
    ledger.guard = made
    egress.install(made)
    atexit.register(ledger.write)
    return made


def own_endpoints() -> list[str]:
    """What the settings name: URLs and host:port. Sites come with their rows. Raises SettingError."""
    texts = {
        "REDIS_URL": env.value("REDIS_URL", "redis://127.0.0.1:6379/0"),
        "BIND": env.value("BIND", "127.0.0.1:8080"),
        "DATABASE_URL": env.value("DATABASE_URL", "postgresql:///kasbah"),
        "OWNER_DATABASE_URL": env.value("OWNER_DATABASE_URL", "postgresql:///kasbah"),
        ALLOWED: env.value("EGRESS_ALLOW", ""),
    }
    if texts["BIND"].endswith(":0"):  # any free port: nothing that could be named here
        del texts["BIND"]
    found: list[str] = []
    for name, text in texts.items():
        given = [each for each in (part.strip() for part in text.split(",")) if each] if name == ALLOWED else [text]
        try:
            found += [each for url in given for each in (_of_database(url) if name in DATABASES else [url])]
            for each in found:
                egress.endpoint(each)
        except ValueError:  # its text quotes what it took for the port: a part of a password
            raise env.SettingInvalid(f"KASBAH_{name} cannot be read: {FORMS[name == ALLOWED]}") from None
    return found


def _of_database(url: str) -> list[str]:
    """A libpq URL may name its host in the query; a folder there is a Unix socket's."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return [] if not host or host.startswith("/") else [f"{host}:{parts.port or egress.PORTS['postgresql']}"]


class Ledger:
    """Writes what the guard counted since the last time; a second after a refusal, in a thread of its own."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.guard: egress.Guard | None = None
        self._written: dict[str, int] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        os.register_at_fork(after_in_child=self._in_child)

    def note(self, _destination: str) -> None:
        """Something was refused."""
        self._start(FIRST_WRITE)

    def _start(self, delay: float) -> None:
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(delay, self._write_in_thread)
            self._timer.daemon = True
            self._timer.start()

    def _in_child(self) -> None:
        """The parent writes what it counted itself."""
        self._lock, self._timer = threading.Lock(), None
        if self.guard is not None:
            self._written = {each.destination: each.count for each in self.guard.attempts()}

    def _write_in_thread(self) -> None:
        try:
            done = self.write()
        finally:
            connections.close_all()
        self._timer = None
        if not done:
            self._start(NEXT_WRITE)

    def write(self) -> bool:
        """Bring the counts to the table; False when the database would not take them."""
        from django.apps import apps

        if self.guard is None or not apps.ready:
            return False
        from kasbah.audit.services import egress as ledger

        with self._lock:
            attempts = self.guard.attempts()
            new = [
                ledger.Refused(
                    each.destination,
                    each.count - self._written.get(each.destination, 0),
                    datetime.fromtimestamp(each.first, UTC),
                    datetime.fromtimestamp(each.last, UTC),
                )
                for each in attempts
            ]
            if not any(each.count for each in new):
                return True
            try:
                ledger.write(self.process, new)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("The ledger of egress is not written (%s); it will be tried again", type(error).__name__)
                return False
            self._written = {each.destination: each.count for each in attempts}
            return True
