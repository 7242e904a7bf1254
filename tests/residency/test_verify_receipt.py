"""The auditor's program, run as he runs it: alone, without Kasbah, on tokens that the contract's code made."""

from __future__ import annotations

import ast
import base64
import io
import json
import random
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_worker.contract.messages import Receipt, Ticket, sha256_hex
from inference_worker.contract.signing import Purpose, Signer, Verifier, b64, unb64
from kasbah.residency.services import tickets

from .signed import CONTROL, OTHER_SITE, SITE, TICKET, Worker

AUDITOR = Path(__file__).parents[2] / "docs" / "auditor"
Issue = Callable[..., str]


def verify(token: str, **now: int) -> Ticket:
    """As the control plane verifies it."""
    return tickets.verify(token, Verifier([CONTROL.public]), **now)


class Desk:
    """An auditor's folder with the program and four files."""

    def __init__(self, folder: Path, worker: Worker, ticket: str) -> None:
        self.folder = folder
        shutil.copy(AUDITOR / "verify_receipt.py", folder)
        self.put("receipt.txt", worker.receipt(ticket))
        self.put("ticket.txt", ticket)
        self.put("worker.pub", b64(worker.key))
        self.put("sites.json", json.dumps({str(SITE): "FR", str(OTHER_SITE): "MA"}))
        self.put("control.pub", b64(CONTROL.public.public_bytes_raw()))

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text + "\n")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, and the first word on standard error."""
        found = subprocess.run(
            [sys.executable, "-I", "verify_receipt.py", *arguments],
            cwd=self.folder,
            env={},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "Traceback" not in found.stderr, found.stderr
        return found.returncode, found.stdout, found.stderr.partition(":")[0]

    def check(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("receipt.txt", "--worker-key", "worker.pub", *arguments)

    def check_both(self) -> tuple[int, str, str]:
        return self.check("--ticket", "ticket.txt", "--control-key", "control.pub")


@pytest.fixture
def desk(tmp_path: Path, worker: Worker, issue: Issue) -> Desk:
    return Desk(tmp_path, worker, issue(now=1_795_420_800))  # 2026-11-23T08:00:00Z


def test_an_honest_receipt_holds(desk: Desk, worker: Worker) -> None:
    code, output, _ = desk.check_both()
    assert code == 0
    found = msgspec.json.decode(output)
    ticket = (desk.folder / "ticket.txt").read_text().strip()
    assert found["receipt"] == worker.fields(ticket)
    assert found["ticket"] == msgspec.to_builtins(verify(ticket, now=1_795_420_801))


def test_the_program_uses_the_standard_library_and_cryptography_alone() -> None:
    tree = ast.parse((AUDITOR / "verify_receipt.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    strangers = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert strangers == {"cryptography"}


def test_the_program_and_the_contract_know_the_same_fields() -> None:
    program: dict[str, Any] = {"__name__": "program"}
    exec(compile((AUDITOR / "verify_receipt.py").read_text(), "program", "exec"), program)  # noqa: S102
    assert tuple(program["RECEIPT_FIELDS"]) == Receipt.__struct_fields__
    assert tuple(program["TICKET_FIELDS"]) == Ticket.__struct_fields__
    assert program["RECEIPT_PURPOSE"] == Purpose.RECEIPT
    assert program["TICKET_PURPOSE"] == Purpose.TICKET


def altered(token: str) -> str:
    key, body, signature = token.split(".")
    return ".".join([key, body[:-2] + ("AA" if body[-2:] != "AA" else "BB"), signature])


def not_canonical(worker: Worker, ticket: str, body: bytes | None = None) -> str:
    body = body or msgspec.json.encode(worker.fields(ticket)) + b" "
    signature = worker.signer._private.sign(Purpose.RECEIPT.encode() + b"\n" + body)
    return f"{worker.signer.key_id}.{b64(body)}.{b64(signature)}"


FORGED: dict[str, tuple[str, Callable[[Worker, str], str]]] = {
    "empty": ("malformed", lambda worker, ticket: ""),
    "two parts": ("malformed", lambda worker, ticket: "a.b"),
    "not base64": ("malformed", lambda worker, ticket: f"{worker.signer.key_id}.!.!"),
    "padded": ("malformed", lambda worker, ticket: worker.receipt(ticket) + "=="),
    "altered": ("bad_signature", lambda worker, ticket: altered(worker.receipt(ticket))),
    "another worker": ("unknown_key", lambda worker, ticket: Worker().receipt(ticket)),
    "another worker in his name": (
        "bad_signature",
        lambda worker, ticket: ".".join([worker.signer.key_id, *Worker().receipt(ticket).split(".")[1:]]),
    ),
    "a report": ("bad_signature", lambda worker, ticket: worker.receipt(ticket, Purpose.REPORT)),
    "a space more": ("not_canonical", not_canonical),
    "not JSON": ("not_canonical", lambda worker, ticket: not_canonical(worker, ticket, b"\xff")),
    "a field twice": ("not_canonical", lambda worker, ticket: not_canonical(worker, ticket, b'{"job":"a","job":"b"}')),
    "a float": ("not_canonical", lambda worker, ticket: not_canonical(worker, ticket, b'{"attempt":1.0}')),
    "nested": ("not_canonical", lambda worker, ticket: not_canonical(worker, ticket, b"[" * 40_000)),
    "a list": ("malformed", lambda worker, ticket: not_canonical(worker, ticket, b"[]")),
    "a field more": ("malformed", lambda worker, ticket: worker.receipt(ticket, more=1)),
    "a type": ("malformed", lambda worker, ticket: worker.receipt(ticket, attempt=True)),
    "negative": ("malformed", lambda worker, ticket: worker.receipt(ticket, prompt_tokens=-1)),
    "version": ("malformed", lambda worker, ticket: worker.receipt(ticket, version=2)),
    "digest": ("malformed", lambda worker, ticket: worker.receipt(ticket, model_digest="x")),
    "outcome": ("malformed", lambda worker, ticket: worker.receipt(ticket, outcome="fine")),
    "time": ("malformed", lambda worker, ticket: worker.receipt(ticket, started="yesterday")),
    "month 13": ("malformed", lambda worker, ticket: worker.receipt(ticket, started="2026-13-01T00:00:00.000000Z")),
    "backwards": ("malformed", lambda worker, ticket: worker.receipt(ticket, finished="2026-01-01T00:00:00.000000Z")),
}


@pytest.mark.parametrize(("name", "make"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_receipt(desk: Desk, worker: Worker, name: str, make: Callable[[Worker, str], str]) -> None:
    desk.put("receipt.txt", make(worker, (desk.folder / "ticket.txt").read_text().strip()))
    assert desk.check() == (1, "", name)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("ticket_mismatch", {"job": "x"}),
        ("ticket_mismatch", {"attempt": 2}),
        ("ticket_mismatch", {"tenant": "x"}),
        ("ticket_mismatch", {"policy": "x@1"}),
        ("ticket_mismatch", {"model_digest": sha256_hex("other")}),
        ("ticket_mismatch", {"ticket_sha256": sha256_hex("other")}),
        ("site_not_allowed", {"site": str(OTHER_SITE)}),
        ("before_ticket", {"started": "2026-11-23T07:58:59.999999Z"}),
        ("ticket_expired", {"started": "2026-11-23T08:10:00.000001Z", "finished": "2026-11-23T08:10:01.000000Z"}),
    ],
)
def test_a_receipt_that_does_not_keep_to_its_ticket(
    desk: Desk, worker: Worker, name: str, changed: dict[str, Any]
) -> None:
    desk.put("receipt.txt", worker.receipt((desk.folder / "ticket.txt").read_text().strip(), **changed))
    assert desk.check()[0] == 0, "the control: without the ticket nothing contradicts it"
    assert desk.check_both() == (1, "", name)


def test_a_ticket_that_the_control_plane_did_not_sign(desk: Desk, worker: Worker) -> None:
    forged = Worker().signer.sign(Purpose.TICKET, {"job": "x"})
    desk.put("ticket.txt", forged)
    desk.put("receipt.txt", worker.receipt(forged))
    assert desk.check_both() == (1, "", "unknown_key")
    desk.put("ticket.txt", CONTROL.sign(Purpose.ASSIGNMENT, {"job": "x"}))
    assert desk.check_both() == (1, "", "bad_signature")
    desk.put("ticket.txt", CONTROL.sign(Purpose.TICKET, {"job": "x"}))
    assert desk.check_both() == (1, "", "malformed")


def placed(desk: Desk, *codes: str) -> tuple[int, str]:
    """Exit code and first word, when it must be in one of these jurisdictions."""
    code, _, word = desk.check("--sites", "sites.json", *(text for code in codes for text in ("--jurisdiction", code)))
    return code, word


def test_where_it_was_processed(desk: Desk) -> None:
    assert placed(desk)[0] == placed(desk, "FR")[0] == placed(desk, "MA", "FR")[0] == 0
    assert msgspec.json.decode(desk.check("--sites", "sites.json")[1])["jurisdiction"] == "FR"
    assert placed(desk, "MA") == (1, "wrong_jurisdiction")
    desk.put("sites.json", json.dumps({"data": [{"id": str(SITE), "jurisdiction": "JP", "name": "x"}]}))
    assert placed(desk, "FR") == (1, "wrong_jurisdiction")
    assert placed(desk, "JP")[0] == 0
    desk.put("sites.json", json.dumps({str(OTHER_SITE): "FR"}))
    assert placed(desk, "FR") == (1, "unknown_site")
    assert desk.check("--jurisdiction", "FR")[0] == 2


@pytest.mark.parametrize(
    "text",
    ["[]", "x", '{"data": [{}]}', '{"a": 1}', '{"data": "FR"}'[:9], f'{{"{SITE}": "MA", "{SITE}": "FR"}}', '"FR"'],
)
def test_a_list_of_sites_that_is_none_is_a_wrong_usage(desk: Desk, text: str) -> None:
    desk.put("sites.json", text)
    assert placed(desk, "FR") == (2, "usage")


@pytest.mark.parametrize("field", ["receipt.txt", "ticket.txt"])
def test_what_was_cut_off_or_swapped_does_not_hold(desk: Desk, field: str) -> None:
    whole = (desk.folder / field).read_text().strip()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        desk.put(field, whole[:length])
        assert desk.check_both()[0] == 1, length
    other = "ticket.txt" if field == "receipt.txt" else "receipt.txt"
    desk.put(field, (desk.folder / other).read_text())
    assert desk.check_both() == (1, "", "unknown_key")
    desk.put(field, whole)
    assert desk.check_both()[0] == 0, "the control"


def test_a_ticket_that_says_something_twice(desk: Desk, worker: Worker) -> None:
    """Signed by the control plane itself, and read by two programs in two ways."""
    whole = (desk.folder / "ticket.txt").read_text().strip()
    twice = unb64(whole.split(".")[1]).replace(b'{"', b'{"attempt":1,"', 1)
    signature = CONTROL._private.sign(Purpose.TICKET.encode() + b"\n" + twice)
    ticket = f"{CONTROL.key_id}.{b64(twice)}.{b64(signature)}"
    desk.put("ticket.txt", ticket)
    desk.put("receipt.txt", worker.receipt(whole, ticket_sha256=sha256_hex(ticket)))
    assert desk.check_both() == (1, "", "not_canonical")


def test_expectations(desk: Desk) -> None:
    assert desk.check("--expect", f"site={SITE}", "--expect", "completion_tokens=34")[0] == 0
    assert desk.check("--expect", f"site={OTHER_SITE}") == (1, "", "unexpected")
    assert desk.check("--expect", "place=here")[0] == 2


def test_keys_are_read_one_a_line_in_either_base64(desk: Desk, worker: Worker) -> None:
    desk.put("worker.pub", b64(Worker().key) + "\n\n" + base64.b64encode(worker.key).decode())
    assert desk.check()[0] == 0


@pytest.mark.parametrize("text", ["", "c2hvcnQ", "!"])
def test_a_key_file_without_keys_is_a_wrong_usage(desk: Desk, text: str) -> None:
    desk.put("worker.pub", text)
    assert desk.check() == (2, "", "usage")


def test_wrong_usage(desk: Desk) -> None:
    assert desk.run("absent.txt", "--worker-key", "worker.pub") == (2, "", "usage")
    assert desk.check("--ticket", "ticket.txt")[0] == 2
    (desk.folder / "receipt.txt").write_bytes(b"a" * 70_000)
    assert desk.check() == (2, "", "usage")


def commands() -> list[str]:
    """Every command of the guide."""
    text = (AUDITOR / "receipts.md").read_text()
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines() if line]


def test_every_command_of_the_guide_works(desk: Desk) -> None:
    assert len(commands()) == 6
    for command in commands():
        found = subprocess.run(
            ["/bin/sh", "-c", command.replace("python3", shlex.quote(sys.executable))],
            cwd=desk.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert found.returncode == 0, (command, found.stderr)
    assert msgspec.json.decode(desk.check()[1])["receipt"]["site"] == str(SITE)


def test_the_guide_and_the_help_name_every_error(desk: Desk) -> None:
    source = (AUDITOR / "verify_receipt.py").read_text()
    raised = set(re.findall(r'Rejected\(\s*"(\w+)"', source))
    assert raised == set(re.findall(r"^  (\w+)  ", source, re.M))
    guide = (AUDITOR / "receipts.md").read_text()
    assert all(f"`{name}`" in guide for name in raised)
    assert all(name in desk.run("--help")[1] for name in raised)


def test_a_signer_is_named_as_the_program_names_it(worker: Worker) -> None:
    assert worker.receipt("x").split(".")[0] == Signer(worker.signer._private).key_id == sha256_hex(worker.key)[:16]


def test_the_ticket_of_the_fixture_is_the_one_of_the_receipts(issue: Issue) -> None:
    assert verify(issue()).job == str(TICKET["job"])


# --- what the platform gives, as it came


def answer(desk: Desk, worker: Worker, **fields: Any) -> dict[str, Any]:
    """As `/api/receipts/` and a dossier have it."""
    receipt, ticket = ((desk.folder / name).read_text().strip() for name in ("receipt.txt", "ticket.txt"))
    control = CONTROL.public.public_bytes_raw()
    made = {
        "request_id": "req_1",
        "receipt": receipt,
        "ticket": ticket,
        "worker": {"id": "w", "name": "w", "public_key": b64(worker.key), "key_valid_until": None},
        "control_plane_keys": {sha256_hex(control)[:16]: b64(control)},
        "claims": {},
    }
    return made | fields


def dossier(document: object, **more: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MANIFEST.json", "{}")
        archive.writestr("dossier/receipt-req_1.json", json.dumps(document))
        for name, data in more.items():
            archive.writestr(name, data)
    return made.getvalue()


@pytest.fixture(params=["answer.json", "dossier.zip"])
def came(request: pytest.FixtureRequest, desk: Desk, worker: Worker) -> str:
    """A file with all of it."""
    document = answer(desk, worker)
    data = json.dumps(document).encode() if request.param == "answer.json" else dossier(document)
    (desk.folder / request.param).write_bytes(data)
    return str(request.param)


def test_what_the_platform_gives_is_read_as_it_came(desk: Desk, came: str) -> None:
    keys = ("--worker-key", "worker.pub", "--control-key", "control.pub")
    code, output, _ = desk.run(came, *keys)
    assert code == 0
    assert msgspec.json.decode(output) == msgspec.json.decode(desk.check_both()[1])
    assert desk.run(came, *keys, "--ticket", "ticket.txt")[0] == desk.run(came, *keys, "--ticket", came)[0] == 0
    assert desk.run("receipt.txt", *keys, "--ticket", came)[0] == 0
    assert desk.run(came, "--worker-key", "worker.pub", "--sites", "sites.json", "--jurisdiction", "MA")[0] == 1


def test_keys_that_came_with_it_prove_nothing_by_themselves(desk: Desk, worker: Worker, came: str) -> None:
    code, output, said = desk.run(came)
    assert (code, said) == (3, "note")
    found = msgspec.json.decode(output)
    assert found["keys_that_came_with_a_receipt"] == ["worker", "control"]
    assert "ticket" in found
    code, output, said = desk.run(came, "--worker-key", came)  # by the caller's own choice, and said
    assert (code, said) == (0, "note")
    assert desk.run("receipt.txt")[0] == 2, "a bare receipt brings no key"
    # The control: whoever writes the answer writes the keys into it too, and only one's own keys show that.
    stranger = Worker()
    ticket = (desk.folder / "ticket.txt").read_text().strip()
    forged = answer(desk, stranger, receipt=stranger.receipt(ticket))
    desk.put("forged.json", json.dumps(forged))
    assert desk.run("forged.json")[0] == 3
    assert desk.run("forged.json", "--worker-key", "worker.pub") == (1, "", "unknown_key")


def test_lists_of_keys_are_read_as_they_came(desk: Desk, worker: Worker, came: str) -> None:
    other = {"public_key": b64(Worker().key), "state": "enrolled", "former_keys": [{"public_key": b64(worker.key)}]}
    desk.put("workers.json", json.dumps({"data": [other]}))
    current = {"public_key": b64(CONTROL.public.public_bytes_raw()), "state": "current"}
    desk.put("keys.json", json.dumps({"data": [current]}))
    assert desk.run(came, "--worker-key", "workers.json", "--control-key", "keys.json")[0] == 0
    desk.put("workers.json", json.dumps({"data": [{**other, "state": "revoked"}]}))
    assert desk.run(came, "--worker-key", "workers.json") == (2, "", "usage"), "a key that was revoked counts no more"


def packed(method: int, *, damage: bool = False) -> bytes:
    """A dossier packed in a way that no export is."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("dossier/receipt-1.json", b"{}" * 200)
    data = bytearray(made.getvalue())
    if damage:
        begin = 30 + len("dossier/receipt-1.json") + 9
        data[begin : begin + 5] = b"\xff" * 5
    return bytes(data)


def far_away(offset: int) -> bytes:
    """A dossier whose receipt is said to stand at an offset of 64 bits (APPNOTE 4.5.3)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("MANIFEST.json", "{}")
        archive.writestr("dossier/receipt-1.json", "{}")
    data = made.getvalue()
    begin, entry = data.find(b"PK\1\2"), data.rfind(b"PK\1\2")
    extra = struct.pack("<HHQ", 1, 8, offset)
    last = bytearray(data[entry:-22])
    last[30:32], last[42:46] = struct.pack("<H", len(extra)), b"\xff" * 4
    entries = data[begin:entry] + bytes(last) + extra
    return data[:begin] + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(entries), begin, 0)


DOCUMENTS: dict[str, bytes] = {
    "half": b'{"receipt":',
    "twice": b'{"receipt":"a","receipt":"b"}',
    "no receipt": b"{}",
    "a number": b'{"receipt":1}',
    "nested": b'{"receipt":' + b"[" * 100_000,
    "a number of 5,000 digits": b'{"receipt":' + b"9" * 5_000 + b"}",
    "half a character": b'{"receipt":"\\ud800.a.b"}',
    "not UTF-8": b"{\xff\xfe}",
    "another alphabet": '{"receipt":"é.é.é"}'.encode(),
    "an archive of nothing": b"PK\5\6" + bytes(18),
    "an archive that is none": b"PK" + bytes(50),
    "an archive that is cut off": dossier({})[:-30],
    "an archive with a comment": dossier({})[:-2] + b"\x07\0comment",
    "an archive with something in front": b"PK" + dossier({}),
    "an archive with something after": dossier({}) + b"\0",
    "two receipts": dossier({}, **{"dossier/receipt-2.json": b"{}"}),
    "a list in it": dossier([]),
    "another packing": packed(zipfile.ZIP_LZMA),
    "another packing, damaged": packed(zipfile.ZIP_LZMA, damage=True),
    "a third packing": packed(zipfile.ZIP_BZIP2),
    "far away": far_away(2**63),
    "farther away": far_away(2**64 - 1),
    "a bomb": dossier({"receipt": "a" * (64 << 20)}),
}


@pytest.mark.parametrize("data", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_document_that_is_none_has_a_name(desk: Desk, data: bytes) -> None:
    (desk.folder / "given").write_bytes(data)
    assert desk.run("given", "--worker-key", "worker.pub") == (1, "", "malformed")
    assert desk.run("receipt.txt", "--worker-key", "given")[0] == 2
    code, _, said = desk.check("--control-key", "control.pub", "--ticket", "given")
    assert (code, said) == (1, "malformed")


def test_no_change_of_a_dossier_is_a_traceback(desk: Desk, worker: Worker) -> None:
    """In this process, so that many can be tried; `Desk.run` shows the same of the program by itself."""
    program: dict[str, Any] = {"__name__": "program"}
    exec(compile((AUDITOR / "verify_receipt.py").read_text(), "program", "exec"), program)  # noqa: S102
    chance = random.Random(20_261_103)
    for whole in (dossier(answer(desk, worker)), json.dumps(answer(desk, worker)).encode()):
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(chance.choice((1, 1, 3))):
                at = chance.randrange(len(data))
                data[at : at + chance.choice((0, 1, 1, 4))] = chance.choice(
                    (b"", b"\xff", b"\0", b"PK\1\2", b'"', b"[")
                )
            (desk.folder / "given").write_bytes(data)
            keys = ["--worker-key", str(desk.folder / "worker.pub"), "--control-key", str(desk.folder / "control.pub")]
            assert program["main"]([str(desk.folder / "given"), *keys]) in (0, 1, 2)


def test_nothing_that_a_terminal_obeys_is_printed(desk: Desk, worker: Worker) -> None:
    ticket = (desk.folder / "ticket.txt").read_text().strip()
    desk.put("receipt.txt", worker.receipt(ticket, site="\x1b[2J\u202eevil\ud7ff"))
    found = subprocess.run(
        [sys.executable, "-I", "verify_receipt.py", "receipt.txt", "--worker-key=worker.pub", "--sites=sites.json"],
        cwd=desk.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.startswith("unknown_site: processed at \\x1b[2J\\u202eevil")
