"""Witnesses and receivers that hang, drip or talk nonsense: they delay nobody, and nothing counts as done by them."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import connection

from kasbah.audit.forwarding import sending, syslog
from kasbah.audit.log import keys, witnessing
from kasbah.audit.log.models import Cosignature, Log
from kasbah.audit.models import Intake
from kasbah.audit.tasks import ask_witnesses
from kasbah.audit.witness import __main__ as witness_program
from kasbah.audit.witness.cosigning import Witness
from kasbah.common import rls
from kasbah.common.exclusive import exclusive
from kasbah.config.celery import INWARD_THREADS, OUTWARD, app
from tests import factories
from tests.audit.forwarded import row, to_https, to_syslog, waiting
from tests.audit.logs import run, write
from tests.audit.receivers import Authority, SyslogReceiver
from tests.serving import estate

pytestmark = pytest.mark.django_db(transaction=True)

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(serve: Serve, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server that gives each connection to `serve`, in a thread."""

    lines: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def one(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain, _wrapped(plain) as line:
            lines.append(line)
            serve(line)

    def _wrapped(plain: socket.socket) -> socket.socket:
        return context.wrap_socket(plain, server_side=True) if context else plain

    def accept() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(line,), daemon=True))
            threads[-1].start()

    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for line in lines:
            line.close()
        for thread in threads:
            thread.join(10)


def hang(line: socket.socket) -> None:
    """Takes the connection and never says anything."""
    while line.fileno() != -1:  # until the test closes it
        time.sleep(0.05)


def drip(line: socket.socket) -> None:
    """Answers a byte at a time, for six seconds; each byte comes well within a socket's time-out."""
    line.recv(65_536)
    for letter in b"HTTP/1.1 200 OK\r\nx-dripping: yes":
        line.sendall(bytes([letter]))
        time.sleep(0.2)


def nonsense(line: socket.socket) -> None:
    """Says with 5,000 digits how much it has seen."""
    line.recv(65_536)
    digits = b"9" * 5000
    line.sendall(b"HTTP/1.1 409 Conflict\r\ncontent-length: 5000\r\nconnection: close\r\n\r\n" + digits)


@pytest.fixture
def tenants(transactional_db: None) -> list[UUID]:
    """Three tenants whose logs have events."""
    found = [factories.tenant().id for _ in range(3)]
    for tenant in found:
        write(tenant, 2)
    run()
    return found


def make_witness(name: str, tenants: list[UUID], folder: Path) -> Witness:
    origins = [f"test/audit/{tenant}" for tenant in tenants]
    watched = {origin: [keys.log_key(origin)] for origin in origins}
    return Witness(name, Ed25519PrivateKey.generate(), watched, folder / name.replace("/", "-"))


def cosigned() -> dict[str, int]:
    """How many logs each witness has signed for."""
    found: dict[str, int] = {}
    with rls.platform_scope():
        for name in Cosignature.objects.values_list("witness", flat=True):
            found[name] = found.get(name, 0) + 1
    return found


def answering(witness: Witness) -> Serve:
    """One that works."""

    def serve(line: socket.socket) -> None:
        with line.makefile("rb") as file:
            head = b"".join(iter(file.readline, b"\r\n")).lower()
            body = file.read(int(head.split(b"content-length:")[1].split()[0])).decode()
        answer = witness.add_checkpoint(body)
        out = answer.body.encode()
        line.sendall(
            b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (answer.status, len(out)) + out
        )

    return serve


@pytest.mark.parametrize("bad", [hang, drip, nonsense])
def test_bad_witness_costs_the_good_one_nothing(  # noqa: PLR0917
    bad: Serve,
    tenants: list[UUID],
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(witnessing, "TIMEOUT", 2.0)
    good, worse = (make_witness(f"{name}.test/w", tenants, tmp_path) for name in ("good", "bad"))
    asked: list[float] = []

    def counted(line: socket.socket) -> None:
        asked.append(time.monotonic())
        bad(line)

    with listening(counted) as first, listening(answering(good)) as second:
        settings.WITNESSES = f"{worse.key.vkey()} http://127.0.0.1:{first},{good.key.vkey()} http://127.0.0.1:{second}"
        start = time.monotonic()
        ask_witnesses()
        took = time.monotonic() - start
    assert cosigned() == {"good.test/w": 3}
    assert took < 5  # one time-out of the bad one, whatever the number of logs
    # One that timed out is left out for the rest of the run; one that answers is asked about each log.
    assert len(asked) == (3 if bad is nonsense else 1)
    assert "Witness bad.test/w" in caplog.text
    assert "9999" not in caplog.text


def test_time_outs_of_sockets_alone_do_not_end_a_drip(
    tenants: list[UUID], tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the deadline: with the time-outs of each read alone, the drip goes on to its end."""
    monkeypatch.setattr(witnessing, "TIMEOUT", 2.0)
    monkeypatch.setattr(witnessing.asyncio, "timeout", lambda _: contextlib.AsyncExitStack())
    worse = make_witness("bad.test/w", tenants, tmp_path)
    with listening(drip) as port:
        settings.WITNESSES = f"{worse.key.vkey()} http://127.0.0.1:{port}"
        start = time.monotonic()
        ask_witnesses()
    assert time.monotonic() - start > 5


def test_run_of_a_slow_witness_ends_and_starves_no_log(
    tenants: list[UUID], tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "RUN", 0.5)
    slow = make_witness("slow.test/w", tenants, tmp_path)

    def late(line: socket.socket) -> None:
        time.sleep(0.4)
        answering(slow)(line)

    with listening(late) as port:
        settings.WITNESSES = f"{slow.key.vkey()} http://127.0.0.1:{port}"
        for _ in range(3):
            start = time.monotonic()
            ask_witnesses()
            assert time.monotonic() - start < 0.5 + 2 * 0.4 + 1  # no question begins after the run's time
    assert cosigned() == {"slow.test/w": 3}


def test_tick_does_nothing_while_another_process_runs_the_task(
    tenants: list[UUID], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    monkeypatch.setattr("kasbah.audit.tasks.ask_all", lambda: runs.append(1))

    def tick() -> None:
        ask_witnesses()
        connection.close()

    with exclusive("ask-witnesses") as held:
        assert held
        other = threading.Thread(target=tick)
        other.start()
        other.join(10)
        assert not other.is_alive()
        assert runs == []
    ask_witnesses()
    assert runs == [1]


def test_syslog_receiver_that_reads_nothing_took_nothing(
    tenants: list[UUID], authority: Authority, receiver: SyslogReceiver, quick: None
) -> None:
    context = receiver.context
    with listening(hang, context) as port:
        soc = to_syslog(receiver, address=f"localhost:{port}", from_start=True)
        run()
        before = waiting(soc)
        assert before
        sending.forward()
        found = row(soc)
    assert (waiting(soc), found.sent, found.failures) == (before, 0, 1)
    assert found.last_error == "it did not answer in time"


def test_syslog_sender_that_takes_a_time_out_for_an_end_loses_the_batch(
    tenants: list[UUID], receiver: SyslogReceiver, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a time-out has no error number, and the kernel has confirmed what nobody will read."""
    close = syslog._close

    def careless(line: ssl.SSLSocket) -> None:
        with contextlib.suppress(TimeoutError):
            close(line)

    monkeypatch.setattr(syslog, "_close", careless)
    with listening(hang, receiver.context) as port:
        soc = to_syslog(receiver, address=f"localhost:{port}", from_start=True)
        run()
        sending.forward()
    assert waiting(soc) == 0


def test_witness_program_cuts_off_who_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_program, "PATIENCE", 0.5)
    server = witness_program.server(make_witness("w.test/w", [], tmp_path), "127.0.0.1:0")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with socket.create_connection(("127.0.0.1", server.server_port), 10) as line:
            line.sendall(b"POST /add-checkpoint HTTP/1.1\r\ncontent-length: 5000\r\n\r\n")
            start = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - start < 5:
                    line.sendall(b"x")
                    time.sleep(0.1)
            assert time.monotonic() - start < 3
        for length in ("9" * 5000, "²", "-1", ""):  # none of them is a traceback
            with socket.create_connection(("127.0.0.1", server.server_port), 10) as line:
                line.sendall(f"POST /add-checkpoint HTTP/1.1\r\ncontent-length: {length}\r\n\r\n".encode())
                assert line.recv(100).split()[1] == b"413"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_every_periodic_task_that_speaks_to_somebody_is_named_so(
    tenants: list[UUID], tmp_path: Path, settings: Any, receiver: SyslogReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new task that connects to another machine must be in OUTWARD, which is what sizes the threads."""
    spoke: list[str] = []
    now = ""
    real = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):
            spoke.append(now)
        real(self, address)

    with rls.platform_scope():
        estate.site("paris", "FR")
    settings.WITNESSES = f"{make_witness('w.test/w', tenants, tmp_path).key.vkey()} http://127.0.0.1:1"
    to_syslog(receiver, from_start=True)
    monkeypatch.setattr(socket.socket, "connect", noted)
    app.loader.import_default_modules()
    for entry in app.conf.beat_schedule.values():
        now = entry["task"]
        app.tasks[now].run()
    assert {"audit.ask_witnesses", "audit.forward", "serving.collect_reports"} <= set(spoke) <= OUTWARD
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} > OUTWARD
    assert app.conf.worker_concurrency == len(OUTWARD) + INWARD_THREADS


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "prompt"), [("", True), ("1", False)])
def test_events_get_their_places_while_outsiders_hang(  # noqa: PLR0917
    threads: str,
    prompt: bool,
    tenants: list[UUID],
    tmp_path: Path,
    settings: Any,
    authority: Authority,
    valkey_server: Any,
) -> None:
    """A real worker. With a thread that outsiders share with the sequencer (the control), it waits for them."""
    worse = make_witness("bad.test/w", tenants, tmp_path)
    with listening(hang) as port:
        to_https(f"https://localhost:{port}/", authority, from_start=True)
        environment = os.environ | {
            "KASBAH_WITNESSES": f"{worse.key.vkey()} http://127.0.0.1:{port}",
            "KASBAH_AUDIT_DIR": settings.AUDIT_DIR,
            "KASBAH_EGRESS_ALLOW": f"127.0.0.1:{port},localhost:{port}",
        }
        command = [sys.executable, "-m", "celery", "-A", "kasbah.config.celery", "worker", "--pool", "threads"]
        command += ["-Q", "housekeeping", *(["--concurrency", threads] if threads else [])]
        with (tmp_path / "log").open("w") as log:
            worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            app.control.purge()  # what another test left in the queue
            write(tenants[0])
            for _ in range(2):
                app.send_task("audit.ask_witnesses")
                app.send_task("audit.forward")
            while not busy():
                assert worker.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
            start = time.monotonic()
            while unplaced():
                app.send_task("audit.sequence")  # as the scheduler does
                time.sleep(0.2)
                assert time.monotonic() - start < 60, (tmp_path / "log").read_text()
            assert (time.monotonic() - start < 3) is prompt
        finally:
            worker.terminate()
            worker.wait(30)


def unplaced() -> bool:
    """Whether an event has no place in its log yet."""
    with rls.platform_scope():
        return Intake.objects.count() > sum(Log.objects.values_list("size", flat=True))


def busy() -> bool:
    """Whether the run of witnesses has begun."""
    with exclusive("ask-witnesses") as held:
        return not held
