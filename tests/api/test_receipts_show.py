"""A receipt that was altered is shown as what it is: with the check that fails, and never as an internal error."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from inference_worker.contract.messages import sha256_hex
from inference_worker.contract.signing import BadToken, Purpose, Signer, Verifier, b64, key_id, unb64
from kasbah.audit.export.verifier.dossier import check_workers_receipt
from kasbah.audit.models import Intake
from kasbah.common import rls
from kasbah.config import dossiers
from kasbah.residency.services import control_keys, tickets
from kasbah.serving.models import Job
from kasbah.serving.services import find_receipt, receipts
from tests import factories
from tests.api import world

ALL = ["receipt_signature", "ticket_signature", "receipt_keeps_to_ticket", "receipt_of_this_request"]
SECRET = bytes(range(32))


class Case:
    """A job with a ticket and a receipt that keeps to it, and its page."""

    def __init__(self, estate: world.Estate, platform: world.Platform, client: Any) -> None:
        self.estate, self.platform, self.client = estate, platform, client
        with rls.platform_scope():
            self.job = Job.objects.get(pk=estate.ids["jobs"])
        started = datetime.fromisoformat("2026-01-02T03:04:05+00:00").timestamp()
        self.ticket = tickets.issue(
            control_keys().current, job=self.job.id, attempt=1, tenant=self.job.tenant_id,
            deployment=platform.deployment.id, policy="p@1", data_class="public", sites=[platform.site.id],
            model_digest=platform.version.digest, payload=b"p", now=int(started),
        )  # fmt: skip
        body = Verifier.from_raw(platform.signer.public.public_bytes_raw()).verify(Purpose.RECEIPT, self.job.receipt)
        self.claims = {**body, "ticket_sha256": sha256_hex(self.ticket)}
        self.receipt = platform.signer.sign(Purpose.RECEIPT, self.claims)
        self.put(receipt=self.receipt, ticket=self.ticket)

    def put(self, **columns: str) -> None:
        with rls.platform_scope():
            Job.objects.filter(pk=self.job.pk).update(**columns)

    def shown(self) -> dict[str, Any]:
        answer = self.client.get(f"/api/receipts/{self.estate.request_id}/")
        assert answer.status_code == 200, answer.content
        found: dict[str, Any] = answer.json()
        return found

    def failing(self) -> list[str]:
        """Names of the checks that fail, each with a reason."""
        checks = self.shown()["checks"]
        assert [check["name"] for check in checks] == ALL
        assert all(bool(check["reason"]) != check["holds"] for check in checks)
        return [check["name"] for check in checks if not check["holds"]]


@pytest.fixture
def case(db: None, as_key: Callable[[str], Any]) -> Case:
    platform = world.make_platform()
    estate = world.make_estate(platform)
    return Case(estate, platform, as_key(estate.household.key_text))


def altered(token: str) -> str:
    key, body, signature = token.split(".")
    return f"{key}.{body}.{b64(bytes([unb64(signature)[0] ^ 1]) + unb64(signature)[1:])}"


def huge(case: Case) -> str:
    """Signed by the worker itself, with a number that no reader takes."""
    body = b'{"attempt":' + b"9" * 5_000 + b"}"
    value = case.platform.signer._private.sign(Purpose.RECEIPT.encode() + b"\n" + body)
    return f"{case.platform.signer.key_id}.{b64(body)}.{b64(value)}"


def test_every_check_holds_for_an_honest_receipt(case: Case) -> None:
    assert case.failing() == []
    assert case.shown()["claims"] == case.claims


RECEIPTS: dict[str, Callable[[Case], str]] = {
    "bad signature": lambda case: altered(case.receipt),
    "unknown signer": lambda case: Signer.from_raw(SECRET).sign(Purpose.RECEIPT, case.claims),
    "another purpose": lambda case: case.platform.signer.sign(Purpose.REPORT, case.claims),
    "garbage": lambda _case: "garbage",
    "two dots": lambda case: f"{case.platform.signer.key_id}..",
    "not ASCII": lambda case: f"{case.platform.signer.key_id}.é.é",
    "a number of 5,000 digits": huge,
}


@pytest.mark.parametrize("made", RECEIPTS.values(), ids=RECEIPTS.keys())
def test_a_receipt_that_does_not_hold_is_shown_with_its_check(case: Case, made: Callable[[Case], str]) -> None:
    case.put(receipt=made(case))
    assert "receipt_signature" in case.failing()
    assert case.shown()["claims"] == {}, "nothing is believed of it"
    assert case.shown()["receipt"] == made(case)


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda case: altered(case.ticket), ["ticket_signature", "receipt_keeps_to_ticket"]),
        (lambda _case: "", ["ticket_signature", "receipt_keeps_to_ticket"]),
        (lambda _case: "a.b.c", ["ticket_signature", "receipt_keeps_to_ticket"]),
        (
            lambda case: Signer.from_raw(SECRET).sign(Purpose.TICKET, {}),
            ["ticket_signature", "receipt_keeps_to_ticket"],
        ),
    ],
)
def test_a_ticket_that_does_not_hold_is_shown_with_its_check(
    case: Case, made: Callable[[Case], str], names: list[str]
) -> None:
    case.put(ticket=made(case))
    assert case.failing() == names


def test_a_receipt_of_another_request_is_named(case: Case) -> None:
    other = {**case.claims, "job": "0190a5d0-0000-7000-8000-000000000003"}
    case.put(receipt=case.platform.signer.sign(Purpose.RECEIPT, other))
    assert case.failing() == ["receipt_keeps_to_ticket", "receipt_of_this_request"]


def test_its_dossier_is_made_and_says_the_same(case: Case) -> None:
    case.put(receipt=altered(case.receipt))
    tenant = case.job.tenant_id
    ((name, data),) = dossiers._receipts(tenant, [{"request_id": case.job.request_id}])
    assert name == f"receipt-{case.job.request_id}.json"
    assert b'"name":"receipt_signature","holds":false' in data or b'"holds":false,"name":"receipt_signature"' in data
    other = factories.tenant()
    assert list(dossiers._receipts(other.id, [{"request_id": case.job.request_id}])) == []
    assert list(dossiers._receipts(None, [{"request_id": case.job.request_id}])) == []


def test_both_verifiers_say_what_the_page_says(case: Case) -> None:
    """Check, export and verifier agree, of an honest receipt and of one that was altered."""
    program = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "auditor" / "verify_receipt.py"))

    def told() -> tuple[list[str], str]:
        ((name, data),) = dossiers._receipts(case.job.tenant_id, [{"request_id": case.job.request_id}])
        document = json.loads(data)
        assert [check["name"] for check in document["checks"] if not check["holds"]] == case.failing()
        found = check_workers_receipt(name, document)
        try:
            keys = {key_id(unb64(key)): Ed25519PublicKey.from_public_bytes(unb64(key)) for key in keys_in(document)}
            receipt = program["verify_receipt"](document["receipt"], keys)
            program["verify_ticket"](document["ticket"], keys, receipt)
        except program["Rejected"] as rejected:
            return found, rejected.name
        return found, ""

    def keys_in(document: dict[str, Any]) -> list[str]:
        return [document["worker"]["public_key"], *document["control_plane_keys"].values()]

    assert told() == ([], "")
    case.put(receipt=altered(case.receipt))
    found, name = told()
    assert name == "bad_signature"
    assert [line.split("CHECK FAILED ")[1].split(":")[0] for line in found] == case.failing()
    case.put(receipt=case.receipt, ticket=altered(case.ticket))
    found, name = told()
    assert (len(found), name) == (2, "bad_signature")


def test_without_the_guard_the_page_would_fail(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what a check raises is what made the page an internal error."""

    def unguarded(job: Job, _worker: object, public_key: bytes, _published: object) -> Any:
        return [], Verifier.from_raw(public_key).verify(Purpose.RECEIPT, job.receipt)

    monkeypatch.setattr(receipts, "_checked", unguarded)
    assert find_receipt(factories.SYSTEM, case.job.request_id) is not None
    case.put(receipt=altered(case.receipt))
    with pytest.raises(BadToken):
        find_receipt(factories.SYSTEM, case.job.request_id)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("data", [b"\xff not JSON", b"[1]", b"[" * 30_000, b'{"a":' + b"9" * 5_000 + b"}"])
def test_an_event_that_was_altered_is_still_listed(as_user: Callable[..., Any], superuser: Any, data: bytes) -> None:
    home = factories.household()
    auditor = factories.user()
    factories.membership(home.tenant, auditor, "auditor")
    client = as_user(auditor)
    base = f"/api/tenants/{home.tenant.slug}/audit-events/"
    client.get(base)  # the read is an event
    first = client.get(base).json()["data"][0]["id"]
    superuser.execute("ALTER TABLE audit_intake DISABLE TRIGGER ALL")
    superuser.execute("UPDATE audit_intake SET event = %s WHERE id = %s", [data, first])
    superuser.execute("ALTER TABLE audit_intake ENABLE TRIGGER ALL")
    with rls.platform_scope():
        assert bytes(Intake.objects.get(pk=first).event) == data
    shown = client.get(f"{base}{first}/")
    assert (shown.status_code, shown.json()["event"]) == (200, {})
    assert client.get(base).status_code == 200
