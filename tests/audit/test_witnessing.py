"""Witnesses asked by the control plane: over HTTP, by hand, away, behind, and lied to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command

from kasbah.audit.export.verifier import program
from kasbah.audit.log import keys, witnessing
from kasbah.audit.log.models import Cosignature, Log
from kasbah.audit.log.note import Note
from kasbah.audit.tasks import ask_witnesses
from kasbah.audit.witness.cosigning import Answer, Witness
from kasbah.common import rls
from kasbah.common.env import SettingInvalid
from kasbah.identity.models import Tenant
from tests.audit.logs import run, write

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def witness(tenant: UUID, tmp_path: Path) -> Witness:
    origin = f"test/audit/{tenant}"
    watched = {origin: [keys.log_key(origin)]}
    return Witness("witness.test/w", Ed25519PrivateKey.generate(), watched, tmp_path / "seen")


@pytest.fixture
def served(witness: Witness, settings: Any) -> Iterator[Witness]:
    """The witness behind HTTP, and named in the settings."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            answer: Answer = witness.add_checkpoint(text)
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.body.encode())

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    settings.WITNESSES = f"{witness.key.vkey()} http://127.0.0.1:{server.server_port}"
    yield witness
    server.shutdown()
    thread.join(10)
    server.server_close()


def rows() -> list[tuple[int, str]]:
    with rls.platform_scope():
        return [(row.checkpoint.size, row.witness) for row in Cosignature.objects.order_by("checkpoint__size")]


def test_what_grew_is_cosigned_and_the_export_says_so(
    tenant: UUID, served: Witness, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tenant, 3)
    run()
    ask_witnesses()
    ask_witnesses()  # nothing grew
    write(tenant, 4)
    run()
    assert witnessing.ask_all() == 1
    assert rows() == [(3, "witness.test/w"), (7, "witness.test/w")]
    with rls.platform_scope():
        slug = Tenant.objects.get(pk=tenant).slug
    call_command("auditexport", "--tenant", slug, "--output", str(tmp_path / "export.zip"))
    origin = f"test/audit/{tenant}"
    known = ["--witness", served.key.vkey(), "--witnesses", "1", "--key", keys.log_key(origin).vkey()]
    assert program.main([str(tmp_path / "export.zip"), *known]) == 0
    assert "witnesses  1 signed" in capsys.readouterr().out


def test_a_witness_that_knows_more_than_we_noted(tenant: UUID, served: Witness) -> None:
    write(tenant, 3)
    run()
    with rls.platform_scope():
        log = Log.objects.get(tenant_id=tenant)
        checkpoint = witnessing.newest(log)
        assert checkpoint is not None
        asked = witnessing.request_for(log, checkpoint, 0)
    assert served.add_checkpoint(asked).status == 200  # its answer was lost
    write(tenant, 2)
    run()
    assert witnessing.ask_all() == 1
    assert rows() == [(5, "witness.test/w")]


def test_a_witness_that_is_away_or_lies_delays_nothing(
    tenant: UUID, served: Witness, settings: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, 3)
    run()
    forged = Answer(200, "— witness.test/w AAAAAAAAAAAAAAAAAAAAAAAA\n")
    with monkeypatch.context() as patch:
        patch.setattr(served, "add_checkpoint", lambda _: forged)
        assert witnessing.ask_all() == 0
    assert "has not signed the checkpoint of 3 events" in caplog.text
    address = settings.WITNESSES
    settings.WITNESSES = address.rpartition(":")[0] + ":1"
    assert witnessing.ask_all() == 0
    assert rows() == []
    settings.WITNESSES = address
    assert witnessing.ask_all() == 1


def test_by_hand(tenant: UUID, witness: Witness, tmp_path: Path) -> None:
    write(tenant, 3)
    run()
    about = ("--log", f"test/audit/{tenant}", "--witness", witness.key.vkey(), "--file")
    call_command("auditlog", "ask", *about, str(tmp_path / "request"))
    answer = witness.add_checkpoint((tmp_path / "request").read_text(encoding="utf-8"))
    (tmp_path / "answer").write_text(answer.body, encoding="utf-8")
    write(tenant)  # the log goes on meanwhile
    run()
    call_command("auditlog", "take", *about, str(tmp_path / "answer"))
    assert rows() == [(3, "witness.test/w")]
    with rls.platform_scope():
        row = Cosignature.objects.select_related("checkpoint").get()
    assert witness.key in Note.parse(row.checkpoint.note + row.line).verified([witness.key])
    (tmp_path / "answer").write_text("— witness.test/w AAAAAAAAAAAAAAAAAAAAAAAA\n", encoding="utf-8")
    with pytest.raises(CommandError, match="none of the"):
        call_command("auditlog", "take", *about, str(tmp_path / "answer"))
    with pytest.raises(CommandError, match="--witness KEY"):
        call_command("auditlog", "ask")


@pytest.mark.parametrize("entry", ["nonsense", "a+b+c http://x", "{log} http://x", "{witness} ftp://x", "{witness}"])
def test_settings_that_name_no_witness(tenant: UUID, witness: Witness, settings: Any, entry: str) -> None:
    log = keys.log_key(f"test/audit/{tenant}").vkey()
    settings.WITNESSES = entry.format(log=log, witness=witness.key.vkey())
    with pytest.raises(SettingInvalid, match="KASBAH_WITNESSES"):
        witnessing.configured()
