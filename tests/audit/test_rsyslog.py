"""The log forwarded to a real rsyslog, with each of its TLS drivers, killed and started again in between.

Runs where KASBAH_TEST_RSYSLOG names rsyslogd (Debian: rsyslog, rsyslog-gnutls, rsyslog-openssl).
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from kasbah.audit.forwarding import sending
from kasbah.audit.services import forwarding
from tests.audit.forwarded import again, log_of, row, waiting
from tests.audit.logs import WHO, run, write
from tests.audit.receivers import Authority

pytestmark = [pytest.mark.rsyslog, pytest.mark.django_db(transaction=True)]
PAGE = Path(__file__).parents[2] / "docs/operator/siem.md"


class Rsyslog:
    """One rsyslogd of a test's own, with the configuration of docs/operator/siem.md."""

    def __init__(self, home: Path, driver: str) -> None:
        self.home, self.file = home, home / "kasbah.log"
        self.authority = Authority(home)
        certificate, key = self.authority.issue("localhost")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (found,) = re.findall(r"```text\n(# rsyslog.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        for old, new in (
            ("/etc/rsyslog.d/ca.pem", str(self.authority.file)),
            ("/etc/rsyslog.d/siem.pem", str(certificate)),
            ("/etc/rsyslog.d/siem.key", str(key)),
            ("/var/log/kasbah.log", str(self.file)),
            ('port="6514"', f'port="{self.port}" address="127.0.0.1"'),
            ('"gtls"', f'"{driver}"'),
        ):
            assert old in found, old
            found = found.replace(old, new)
        (home / "rsyslog.conf").write_text(f'global(workDirectory="{home}")\n{found}')
        self.start()

    def start(self) -> None:
        """Returns once it listens."""
        arguments = ["-n", "-f", str(self.home / "rsyslog.conf"), "-i", "NONE"]
        with (self.home / "errors").open("ab") as errors:
            self.process = subprocess.Popen(
                [os.environ["KASBAH_TEST_RSYSLOG"], *arguments], stdout=subprocess.DEVNULL, stderr=errors
            )
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.home / "errors").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[str]:
        return self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []


@pytest.fixture(params=["gtls", "ossl"])
def rsyslog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rsyslog]:
    made = Rsyslog(tmp_path, request.param)
    yield made
    made.kill()


def test_rsyslog_has_every_event_in_order_though_it_is_killed(
    rsyslog: Rsyslog, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "EVENTS", 40)
    write(tenant)
    soc = forwarding.create_forwarder(
        WHO,
        name="soc",
        kind="syslog_tls",
        tenant_id=tenant,
        from_start=True,
        address=f"localhost:{rsyslog.port}",
        ca_certificate=rsyslog.authority.pem,
    )
    for _ in range(3):
        write(tenant, 60)
        run()
        again()
        assert row(soc).last_error == ""
        wait_for(rsyslog, log_of(tenant))
        rsyslog.kill()
        write(tenant, 10)
        run()
        again()
        assert row(soc).last_error != ""
        rsyslog.start()
    again()
    assert waiting(soc) == 0
    wait_for(rsyslog, log_of(tenant))
    assert any(" msgid=forwarding.created [kasbah@32473 " in line for line in rsyslog.lines()[:2])


def wait_for(rsyslog: Rsyslog, wanted: list[UUID]) -> None:
    """It writes a moment after it took; in order once what came twice is left out."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = list(dict.fromkeys(re.findall(r' id="([0-9a-f-]{36})"', "\n".join(rsyslog.lines()))))
        if len(found) >= len(wanted):
            break
        time.sleep(0.05)
    assert [UUID(each) for each in found] == wanted
