"""Content by policy: commitments that anyone can make again, boxes that open in one place alone, guards in SQL."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection

from inference_worker.contract.sealing import CannotOpen
from kasbah.audit.content import opening, records, vault
from kasbah.audit.content.forms import StreamForm
from kasbah.audit.content.opening import Altered
from kasbah.audit.models import Content, ContentKey
from kasbah.audit.services import ActorRef, Event, EventType
from kasbah.audit.services import insert as insert_events
from kasbah.audit.services.content import KeyDestroyed, Place, Vault
from kasbah.common import rls
from kasbah.common.ids import uuid7
from tests import factories

PROMPT = '{"model":"m","messages":[{"role":"user","content":"Où est-ce ?"}],"temperature":0.7}'.encode()


def by_hand(key: bytes, content: bytes) -> str:
    """HMAC-SHA256 from its definition (RFC 2104), not from the library that the platform uses."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + content).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).hexdigest()


def place(tenant: UUID, level: str = "sealed", **fields: Any) -> Place:
    given = {"request_id": f"req_{uuid7().hex}", "data_class": "internal", "policy": "p@1", "ceiling_days": 30}
    return Place(tenant_id=tenant, project_id=uuid7(), level=level, **{**given, **fields})


async def keep(database: Any, where: Place, content: bytes = PROMPT, part: str = "prompt") -> records.Record:
    """As the gateway does it: the event with the commitment, and the record, in one transaction."""
    key = await Vault(database).key(where.tenant_id)
    record = records.make(key, where, part=part, form="body", content=content)
    event = Event(
        type=EventType.INFERENCE_INTENT,
        tenant_id=where.tenant_id,
        actor=ActorRef("api_key", "k", "api_key"),
        commitments={part: record.commitment},
    )
    async with database.transaction(None) as session:
        await insert_events(session, [event])
        await records.insert(session, [(record, event.id)])
    return record


async def sync(function: Any, *arguments: Any) -> Any:
    """Call what speaks to Django's side of the database."""
    return await sync_to_async(function)(*arguments)


def opened(tenant: UUID, ident: UUID) -> opening.Opened:
    with rls.tenant_scope(tenant):
        return opening.open_record(Content.objects.select_related("key").get(id=ident))


class TestForms:
    """The stream's form is made of what a client's library shows, whatever the chunks were."""

    def test_choices_are_joined_in_order(self) -> None:
        form = StreamForm()
        for chunk in (
            {"choices": [{"index": 1, "delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"index": 1, "delta": {"content": "deux"}}, {"index": 0, "delta": {"content": "un "}}]},
            {"choices": [{"index": 0, "delta": {"content": "é\n"}, "finish_reason": None, "logprobs": {"x": 1.5}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"total_tokens": 3}},
        ):
            form.add(json.dumps(chunk).encode())
        assert form.bytes() == (
            '{"choices":[{"content":"un é\\n","finish_reason":"stop","index":0},{"content":"deux","index":1}]}'.encode()
        )

    def test_calls_of_tools_are_joined(self) -> None:
        form = StreamForm()
        for call in (
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"a":'}},
            {"index": 1, "id": "call_2", "function": {"name": "see", "arguments": "{}"}},
            {"index": 0, "id": "call_9", "function": {"name": "other", "arguments": "1}"}},
        ):
            form.add(json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}).encode())
        calls = [
            {"arguments": '{"a":1}', "id": "call_1", "index": 0, "name": "look"},
            {"arguments": "{}", "id": "call_2", "index": 1, "name": "see"},
        ]
        assert json.loads(form.bytes()) == {"choices": [{"index": 0, "tool_calls": calls}]}

    def test_text_completions_and_nothing_at_all(self) -> None:
        form = StreamForm()
        assert form.bytes() == b""
        form.add(b'{"choices":[{"index":0,"text":"a"}]}')
        form.add(b'{"choices":[{"index":0,"text":"b","finish_reason":"length"}]}')
        assert form.bytes() == b'{"choices":[{"finish_reason":"length","index":0,"text":"ab"}]}'


PAGE = Path(__file__).parents[2] / "docs/auditor/content.md"


def programs() -> list[str]:
    """What the auditor's page tells people to run: the check, and the form of a stream."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


class TestThePage:
    """What docs/auditor/content.md says is so: its programs come to the same as the platform."""

    def test_its_form_of_a_stream_is_ours(self) -> None:
        call = {"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"a":'}}
        rest = {"index": 0, "function": {"arguments": "1}"}}
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 1, "delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"index": 1, "delta": {"content": "é\u2028"}}, {"index": 0, "delta": {"tool_calls": [call]}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [rest]}, "finish_reason": "tool_calls"}]},
            {"choices": [{"index": 2, "text": "t", "finish_reason": None}]},
            {"choices": [], "usage": {}},
        ]
        form, names = StreamForm(), dict[str, Any]()
        for chunk in chunks:
            form.add(json.dumps(chunk).encode())
        exec(programs()[1], names)  # noqa: S102 - our own page
        assert names["stream_form"](chunks) == form.bytes()

    @pytest.mark.parametrize(("content", "said"), [("é", "prompt matches"), ("e", "prompt DIFFERS")])
    def test_its_check_tells_right_from_wrong(self, tmp_path: Path, content: str, said: str) -> None:
        key = os.urandom(32)
        part = {"part": "prompt", "opening": key.hex(), "content": content, "commitment": by_hand(key, "é".encode())}
        (tmp_path / "content.json").write_text(json.dumps({"parts": [part]}), encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, "-I", "-c", programs()[0]], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == said


@pytest.mark.django_db(transaction=True)
class TestRecords:
    """What lies in the table opens where it was put, and nowhere else."""

    async def test_sealed_content_opens_and_its_commitment_can_be_made_again(self, database: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        record = await keep(database, place(tenant))
        shown = await sync(opened, tenant, record.id)
        assert shown.content == PROMPT.decode()
        assert by_hand(bytes.fromhex(shown.opening), PROMPT) == shown.commitment == record.commitment

    async def test_a_commitment_keeps_the_opening_alone(self, database: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        record = await keep(database, place(tenant, "commitment"))
        shown = await sync(opened, tenant, record.id)
        assert (record.ciphertext, record.record_key, shown.content) == (None, None, None)
        assert by_hand(bytes.fromhex(shown.opening), PROMPT) == shown.commitment
        assert by_hand(bytes.fromhex(shown.opening), PROMPT + b" ") != shown.commitment

    async def test_the_same_prompt_twice_cannot_be_told_by_its_commitments(self, database: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        one, two = [await keep(database, place(tenant)) for _ in range(2)]
        assert one.commitment != two.commitment
        assert hmac.digest(b"", PROMPT, "sha256").hex() not in (one.commitment, two.commitment)

    @pytest.mark.parametrize("columns", [("ciphertext",), ("record_key", "ciphertext"), ("opening",)])
    async def test_a_superuser_who_swaps_boxes_is_found(
        self, database: Any, superuser: psycopg.Connection, columns: tuple[str, ...]
    ) -> None:
        tenant = (await sync(factories.tenant)).id
        one = await keep(database, place(tenant), b"one")
        two = await keep(database, place(tenant), b"two")
        swap(superuser, tenant, *columns)  # fmt: skip
        for record in (one, two):
            with pytest.raises(Altered):
                await sync(opened, tenant, record.id)

    async def test_without_the_place_in_the_seal_a_swap_would_pass(
        self, database: Any, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The negative control: with neither the associated data nor the commitment, nobody sees the swap."""
        monkeypatch.setattr(records, "bound", lambda *_: "")
        monkeypatch.setattr(opening, "bound", lambda *_: "")
        monkeypatch.setattr("kasbah.audit.content.opening.hmac.compare_digest", lambda *_: True)
        tenant = (await sync(factories.tenant)).id
        one = await keep(database, place(tenant), b"one")
        await keep(database, place(tenant), b"two")
        swap(superuser, tenant, "record_key", "ciphertext")
        assert (await sync(opened, tenant, one.id)).content == "two"

    async def test_a_row_moved_to_another_event_is_found(self, database: Any, superuser: psycopg.Connection) -> None:
        tenant = (await sync(factories.tenant)).id
        one = await keep(database, place(tenant), b"one")
        await keep(database, place(tenant), b"two")
        swap(superuser, tenant, "event_id")
        with pytest.raises(Altered, match="commits to"):
            await sync(opened, tenant, one.id)

    @pytest.mark.parametrize("data", [b"no JSON", b"[]", b"{}", b'{"commitments":{"prompt":7}}', b"[" * 30_000])
    async def test_an_event_that_was_altered_is_named(self, database: Any, superuser: Any, data: bytes) -> None:
        tenant = (await sync(factories.tenant)).id
        one = await keep(database, place(tenant))
        superuser.execute("ALTER TABLE audit_intake DISABLE TRIGGER ALL")
        superuser.execute("UPDATE audit_intake SET event = %s WHERE tenant_id = %s", [data, tenant])
        superuser.execute("ALTER TABLE audit_intake ENABLE TRIGGER ALL")
        with pytest.raises(Altered, match="commits to the prompt, was altered"):
            await sync(opened, tenant, one.id)


@pytest.mark.django_db(transaction=True)
class TestVault:
    """One key a tenant and month; what is destroyed is gone."""

    async def test_two_processes_make_one_key(self, database: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        one, two = await Vault(database).key(tenant), await Vault(database).key(tenant)
        assert one == two
        other = await Vault(database).key((await sync(factories.tenant)).id)
        assert other.key != one.key

    async def test_an_open_key_is_forgotten_in_time(self, database: Any, superuser: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        now = [0.0]
        keys = Vault(database, clock=lambda: now[0])
        first = await keys.key(tenant)
        destroy(superuser, first.id)
        now[0] = vault.KEPT_FOR - 1
        assert await keys.key(tenant) == first
        now[0] = vault.KEPT_FOR
        assert (await keys.key(tenant)).id != first.id

    async def test_nothing_is_written_under_a_destroyed_key(self, database: Any, superuser: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        key = await Vault(database).key(tenant)
        record = records.make(key, place(tenant), part="prompt", form="body", content=PROMPT)
        destroy(superuser, key.id)
        with pytest.raises(KeyDestroyed):
            async with database.transaction(None) as session:
                await records.insert(session, [(record, uuid7())])

    async def test_with_the_key_of_the_month_all_of_it_is_gone(self, database: Any, superuser: Any) -> None:
        tenant = (await sync(factories.tenant)).id
        record = await keep(database, place(tenant))
        destroy(superuser, record.key_id)
        shown = await sync(opened, tenant, record.id)
        assert (shown.content, shown.opening, shown.erased_reason) == (None, None, "key_destroyed")
        assert shown.commitment == record.commitment

    async def test_a_key_wrapped_for_one_tenant_opens_for_no_other(self, database: Any) -> None:
        tenant, other = (await sync(factories.tenant)).id, (await sync(factories.tenant)).id
        key = await Vault(database).key(tenant)
        with pytest.raises(CannotOpen):
            vault.unwrap(other, key.id, vault.wrap(tenant, key.id, key.key))


@pytest.mark.django_db
class TestGuards:
    """The application may write content and erase it, and the database refuses everything else."""

    @pytest.fixture
    def row(self) -> Content:
        tenant = factories.tenant().id
        with rls.tenant_scope(tenant):
            ident = uuid7()
            key = ContentKey.objects.create(id=ident, tenant_id=tenant, month="2026-11-01", wrapped=b"w")
            return Content.objects.create(
                tenant_id=tenant, project_id=uuid7(), key=key, request_id="req_1", event_id=uuid7(), part="prompt",
                form="body", data_class="internal", level="sealed", policy="p@1", opening=b"o", record_key=b"k",
                ciphertext=b"c",
            )  # fmt: skip

    ERASE = "record_key = NULL, ciphertext = NULL, erased_at = now(), erased_reason = 'r', erased_event = id"

    def change(self, row: Content, what: str) -> None:
        with rls.tenant_scope(row.tenant_id), connection.cursor() as cursor:
            cursor.execute(f"UPDATE audit_content SET {what} WHERE id = %s", [row.id])  # noqa: S608 - ours
            assert cursor.rowcount == 1

    def test_erasing_is_let_through(self, row: Content) -> None:
        self.change(row, self.ERASE)
        self.change(row, self.ERASE + ", opening = NULL")

    @pytest.mark.parametrize(
        "what",
        [
            "ciphertext = 'other', erased_at = now(), erased_reason = 'r', erased_event = id",
            "opening = 'other', erased_at = now(), erased_reason = 'r', erased_event = id",
            "record_key = NULL, ciphertext = NULL",  # nobody says why
            "record_key = NULL, erased_at = now(), erased_reason = 'r', erased_event = id",  # half
            "data_class = 'public'",
            "created_at = now()",
            "request_id = 'req_2'",
        ],
    )
    def test_all_else_is_refused(self, row: Content, what: str) -> None:
        with pytest.raises(DatabaseError, match=r"audit_content|permission denied"):
            self.change(row, what)

    def test_what_is_erased_does_not_come_back(self, row: Content) -> None:
        self.change(row, self.ERASE)
        with pytest.raises(DatabaseError, match="erased or left"):
            self.change(row, "ciphertext = 'c', record_key = 'k', erased_at = now()")

    @pytest.mark.parametrize("table", ["audit_content", "audit_legalhold", "audit_contentkey"])
    @pytest.mark.parametrize("verb", ["DELETE FROM", "TRUNCATE"])
    def test_nothing_is_removed(self, row: Content, table: str, verb: str) -> None:
        with (
            pytest.raises(DatabaseError, match="permission denied"),
            rls.tenant_scope(row.tenant_id),
            connection.cursor() as cursor,
        ):
            cursor.execute(f"{verb} {table}")

    def test_a_record_hangs_on_a_key_of_its_own_tenant(self, row: Content) -> None:
        other = factories.tenant().id
        with pytest.raises(DatabaseError, match="same_tenant"):
            self.copy_to(other, row)

    def copy_to(self, tenant: UUID, row: Content) -> None:
        """The row with another tenant, and every constraint asked at once."""
        row.pk, row.tenant_id = uuid7(), tenant
        with rls.tenant_scope(tenant), connection.cursor() as cursor:
            row.save(force_insert=True)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def swap(superuser: psycopg.Connection, tenant: UUID, *columns: str) -> None:
    """What only who owns the database can do: switch the trigger off, exchange columns of two rows, switch it on."""
    superuser.execute("ALTER TABLE audit_content DISABLE TRIGGER audit_content_guard")
    superuser.execute(
        "UPDATE audit_content AS a SET "  # noqa: S608 - our own columns  # type: ignore[arg-type]
        + ", ".join(f"{name} = b.{name}" for name in columns)
        + " FROM audit_content AS b WHERE a.id <> b.id AND a.tenant_id = %(tenant)s AND b.tenant_id = %(tenant)s",
        {"tenant": tenant},
    )
    superuser.execute("ALTER TABLE audit_content ENABLE ALWAYS TRIGGER audit_content_guard")


def destroy(superuser: psycopg.Connection, key: UUID) -> None:
    superuser.execute("ALTER TABLE audit_contentkey DISABLE TRIGGER audit_contentkey_guard")
    superuser.execute("UPDATE audit_contentkey SET wrapped = NULL, destroyed_at = now() WHERE id = %s", [key])
    superuser.execute("ALTER TABLE audit_contentkey ENABLE ALWAYS TRIGGER audit_contentkey_guard")
