"""What the gateway keeps of content: by level, byte for byte what was sent and got, or the request is refused."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import psycopg
import pytest

from kasbah.audit.content.opening import Opened, open_record
from kasbah.audit.content.records import commit
from kasbah.audit.models import Content, ContentKey
from kasbah.common import rls
from tests.factories import Household
from tests.gateway.calls import CHAT, chat, chunks_of, error_of, inference_events, jobs_of, post
from tests.gateway.stack import Stack, everything, wait_until

pytestmark = pytest.mark.slow  # a platform of its own; the parts are tested in tests/audit/test_content.py


def kept(who: Household, response: httpx.Response | str) -> dict[str, Opened]:
    """The sides of a request that are kept, opened."""
    ident = response if isinstance(response, str) else response.headers["x-request-id"]
    with rls.tenant_scope(who.tenant.id):
        rows = Content.objects.select_related("key").filter(request_id=ident)
        return {row.part: open_record(row) for row in rows}


def household(stack: Stack, level: str) -> Household:
    document = everything()
    document["content"] = dict.fromkeys(document["content"], level)
    return stack.household(document)


def agrees(side: Opened, content: bytes) -> bool:
    """Whether the commitment in the event is to these bytes, with the opening from beside it."""
    return side.opening is not None and commit(bytes.fromhex(side.opening), content) == side.commitment


def stream_form(chunks: list[dict[str, Any]]) -> bytes:
    """The form of docs/auditor/content.md for one choice of text, made of what a client got."""
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    reasons = [chunk["choices"][0].get("finish_reason") for chunk in chunks if chunk["choices"]]
    choice: dict[str, Any] = {"index": 0}
    if text:
        choice["content"] = text
    if any(reasons):
        choice["finish_reason"] = [reason for reason in reasons if reason][-1]
    return json.dumps({"choices": [choice]}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


BODY = json.dumps(chat("Où ? [[tokens=3]]"), indent=1).encode()  # spaces and escapes as this client writes them


def test_sealed_an_answer_in_one_piece(stack: Stack, client_of: Household) -> None:
    answer = post(stack, client_of, CHAT, BODY)
    sides = kept(client_of, answer)
    assert (sides["prompt"].content, sides["answer"].content) == (BODY.decode(), answer.text)
    assert agrees(sides["prompt"], BODY)
    assert agrees(sides["answer"], answer.content)
    assert not agrees(sides["answer"], answer.content[:-1])
    intent, outcome = inference_events(client_of)
    assert intent["commitments"] == {"prompt": sides["prompt"].commitment}
    assert outcome["commitments"] == {"answer": sides["answer"].commitment}
    assert (intent["details"]["content"], outcome["details"]["form"]) == ("sealed", "body")


def test_sealed_a_stream(stack: Stack, client_of: Household) -> None:
    body = chat("x [[tokens=5 delay=0.01]]", stream=True, stream_options={"include_usage": True})
    answer = post(stack, client_of, CHAT, body)
    side = kept(client_of, answer)["answer"]
    assert side.form == "stream"
    assert agrees(side, stream_form(chunks_of(answer)))
    assert side.content == '{"choices":[{"content":" t0 t1 t2 t3 t4","finish_reason":"length","index":0}]}'


def test_commitment_keeps_no_content(stack: Stack) -> None:
    who = household(stack, "commitment")
    answer = post(stack, who, CHAT, BODY)
    sides = kept(who, answer)
    assert {side.content for side in sides.values()} == {None}
    assert agrees(sides["prompt"], BODY)
    assert agrees(sides["answer"], answer.content)
    with rls.tenant_scope(who.tenant.id):
        assert set(Content.objects.values_list("ciphertext", "record_key")) == {(None, None)}


def test_none_keeps_nothing(stack: Stack) -> None:
    who = household(stack, "none")
    for streams in (False, True):
        answer = post(stack, who, CHAT, chat("x [[tokens=2]]", stream=streams))
        assert answer.status_code == 200
        assert kept(who, answer) == {}
    with rls.tenant_scope(who.tenant.id):
        assert not ContentKey.objects.exists()  # no key was asked for, so nothing was done for content at all
    assert all("commitments" not in event and "content" not in event["details"] for event in inference_events(who))


def test_the_level_is_that_of_the_class(stack: Stack) -> None:
    document = everything()
    document["content"] = {"internal": "sealed", "secret": "none"}
    who = stack.household(document)
    assert set(kept(who, post(stack, who, CHAT, BODY, kasbah_data_class="internal"))) == {"prompt", "answer"}
    assert kept(who, post(stack, who, CHAT, BODY, kasbah_data_class="secret")) == {}


def test_what_failed_before_it_began_has_a_prompt_and_no_answer(stack: Stack, client_of: Household) -> None:
    failed = post(stack, client_of, CHAT, chat("x [[error=400]]"))
    assert failed.status_code == 400
    assert set(kept(client_of, failed)) == {"prompt"}


def test_of_a_stream_that_broke_what_was_sent(stack: Stack, client_of: Household) -> None:
    client = openai.OpenAI(base_url=f"{stack.web.url}/v1", api_key=client_of.key_text, max_retries=0)
    text = "one two [[tokens=5 stream_error=2 delay=0.1]]"
    got: list[dict[str, Any]] = []
    stream = client.chat.completions.create(model="mini", messages=[{"role": "user", "content": text}], stream=True)
    with pytest.raises(openai.APIError, match="engine"):
        got.extend(chunk.model_dump() for chunk in stream)
    [job] = jobs_of(client_of)
    assert agrees(kept(client_of, job.request_id)["answer"], stream_form(got))


def test_of_a_stream_that_was_left_what_was_sent_at_least(stack: Stack, client_of: Household) -> None:
    headers = {"authorization": f"Bearer {client_of.key_text}"}
    body = chat("x [[tokens=400 delay=0.02]]", stream=True)
    with httpx.stream("POST", f"{stack.web.url}{CHAT}", json=body, headers=headers, timeout=30) as stream:
        lines = stream.iter_lines()
        got = [line for line in (next(lines) for _ in range(20)) if line.startswith("data: ")]
        ident = stream.headers["x-request-id"]
    wait_until(lambda: "answer" in kept(client_of, ident), "the outcome", 10)
    said = json.loads(kept(client_of, ident)["answer"].content or "")["choices"][0]["content"]
    text = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in got)
    assert said.startswith(text)
    assert len(said) < len(" t100") * 200, "what was never generated is not told"


class TestFailingClosed:
    """No request goes on whose content cannot be kept, and nothing of it is left."""

    @pytest.fixture
    def unwritable(self, owner: psycopg.Connection) -> Any:
        owner.execute("REVOKE INSERT ON audit_content FROM kasbah_app")
        yield
        owner.execute("GRANT INSERT ON audit_content TO kasbah_app")

    def test_an_intent_whose_content_cannot_be_written(
        self, stack: Stack, client_of: Household, unwritable: Any
    ) -> None:
        refused = post(stack, client_of, CHAT, BODY)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "not_recorded")
        assert jobs_of(client_of) == []
        assert inference_events(client_of) == []

    def test_where_nothing_is_kept_it_does_not_matter(self, stack: Stack, unwritable: Any) -> None:
        """The control: it is the content that could not be written."""
        who = household(stack, "none")
        assert post(stack, who, CHAT, BODY).status_code == 200

    def test_a_key_that_cannot_be_had(self, stack: Stack, owner: psycopg.Connection) -> None:
        who = household(stack, "sealed")
        owner.execute("REVOKE INSERT ON audit_contentkey FROM kasbah_app")
        try:
            refused = post(stack, who, CHAT, BODY)
        finally:
            owner.execute("GRANT INSERT ON audit_contentkey TO kasbah_app")
        assert refused.status_code == 503, refused.text
        assert inference_events(who) == []
        assert post(stack, who, CHAT, BODY).status_code == 200

    def test_an_answer_whose_content_cannot_be_written_does_not_go_out(
        self, stack: Stack, client_of: Household, owner: psycopg.Connection
    ) -> None:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(post, stack, client_of, CHAT, chat("x [[tokens=2 delay=0.4]]"))
            wait_until(lambda: jobs_of(client_of), "the job", 5)
            time.sleep(0.1)
            owner.execute("REVOKE INSERT ON audit_content FROM kasbah_app")
            try:
                answer = asked.result()
            finally:
                owner.execute("GRANT INSERT ON audit_content TO kasbah_app")
        assert answer.status_code == 503
        assert "t0" not in answer.text


def test_no_prompt_and_no_answer_in_a_log_or_an_event(stack: Stack, client_of: Household) -> None:
    answer = post(stack, client_of, CHAT, chat("pineapple-7731 [[tokens=2 tag=mango-7731-]]"))
    assert "mango-7731-0" in answer.text
    logs = "".join(path.read_text(errors="replace") for path in stack.home.glob("*.log"))
    told = json.dumps(inference_events(client_of))
    assert answer.headers["x-request-id"] in logs  # the control: this request is in the log
    # By words: four digits stand by chance in one of many identifiers now and then.
    for said in ("pineapple", "mango"):
        assert said not in logs + told
