"""Jobs through a real worker, a real Valkey and a fake engine: what arrives, is counted, is stopped."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest

from inference_worker.contract import keys, sealing
from inference_worker.contract.frames import Body, Data, Done, Failed, Frame, Role
from inference_worker.contract.messages import Receipt, Usage, checked, sha256_hex
from inference_worker.contract.signing import Purpose
from tests.inference_worker.harness import Sent, Serving, chat, text_of, wait_for


def receipt_of(serving: Serving, frame: Frame) -> Receipt:
    assert isinstance(frame, (Done, Failed))
    return checked(serving.control.workers[serving.worker.id], Purpose.RECEIPT, frame.receipt, Receipt)


def commitment(sent: Sent, given: list[Frame]) -> str:
    key = sealing.derive(sent.reply_secret, "kasbah-output-v1")
    parts = [f.chunk if isinstance(f, (Role, Data)) else f.body for f in given if not isinstance(f, (Done, Failed))]
    content = b"".join(parts)
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def test_a_stream_arrives_whole_with_a_receipt(serving: Serving) -> None:
    sent, given = serving.ask(chat("[[tokens=5 tag=x]] hello"))
    assert isinstance(given[0], Role)
    assert text_of(given) == " x0 x1 x2 x3 x4"
    assert all(isinstance(frame, Data) and b'"usage"' not in frame.chunk for frame in given[1:-1])
    assert json.loads(given[-2].chunk)["choices"][0]["finish_reason"] == "length"  # type: ignore[union-attr]
    done = given[-1]
    assert isinstance(done, Done)
    assert (done.usage, done.cancelled) == (Usage(3, 5), False)
    receipt = receipt_of(serving, done)
    assert (receipt.job, receipt.attempt, receipt.site) == (sent.job, 1, serving.control.site)
    assert (receipt.tenant, receipt.outcome, receipt.engine) == ("tenant-a", "succeeded", "vllm 0.0.fake")
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (3, 5)
    assert receipt.model_digest == serving.deployment.model_digest
    assert receipt.ticket_sha256 == sha256_hex(sent.ticket)
    assert receipt.started < receipt.finished
    assert receipt.output_commitment == commitment(sent, given)


@pytest.mark.parametrize(
    ("path", "body", "usage"),
    [
        ("/v1/chat/completions", chat("[[tokens=3]] hello"), Usage(2, 3)),
        ("/v1/completions", {"prompt": "[[tokens=4]] a b"}, Usage(3, 4)),
        ("/v1/embeddings", {"input": ["a b", "c"]}, Usage(3, 0)),
        ("/tokenize", {"prompt": "a b c d"}, Usage(4, 0)),
    ],
)
def test_an_answer_in_one_piece(serving: Serving, path: str, body: dict[str, Any], usage: Usage) -> None:
    sent, given = serving.ask(body, path=path, stream=False)
    whole, done = given
    assert isinstance(whole, Body)
    assert isinstance(done, Done)
    assert done.usage == usage
    assert json.loads(whole.body)
    assert receipt_of(serving, done).output_commitment == commitment(sent, given)


def test_usage_of_several_choices_is_summed(serving: Serving) -> None:
    _, given = serving.ask(chat("[[tokens=4]] hello", n=3))
    assert isinstance(given[-1], Done)
    assert given[-1].usage == Usage(2, 12)


def test_the_engine_gets_the_platforms_fields(serving: Serving) -> None:
    body = chat("[[tokens=1 tag=salted ]]", model="other", cache_salt="mine", request_id="mine", priority=-5)
    for tenant in ("a", "b", "a"):
        serving.ask(body, tenant=tenant)
    bodies = [line["body"] for line in serving.request("done", "salted")]
    assert [body["model"] for body in bodies] == ["demo"] * 3
    salts = [body["cache_salt"] for body in bodies]
    assert salts[0] == salts[2] != salts[1]
    assert "mine" not in salts
    assert all(body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True} for body in bodies)
    assert not any({"request_id", "priority"} & body.keys() for body in bodies)


def test_many_streams_do_not_mix(serving: Serving) -> None:
    sent = [
        serving.control.submit(serving.deployment, chat(f"[[tokens=50 delay=0.002 tag=m{i}. ]]")) for i in range(40)
    ]
    for i, job in enumerate(sent):
        assert text_of(serving.control.frames(job, 20)) == "".join(f" m{i}.{token}" for token in range(50))


def test_frames_gather_while_a_write_is_under_way(serving: Serving) -> None:
    sent, given = serving.ask(chat("[[tokens=400]] fast"))
    assert len(given) == 402
    assert len(serving.control.entries(sent)) < 200


def test_a_cancelled_stream_stops_the_engine_and_is_metered(serving: Serving) -> None:
    sent = serving.control.submit(serving.deployment, chat("[[tokens=1000 delay=0.02 tag=c1 ]] x"))
    wait_for(lambda: len(serving.control.arrived(sent)) > 5)
    serving.control.cancel(sent)
    began = time.monotonic()
    wait_for(lambda: serving.request("aborted", "c1"), 2)
    assert time.monotonic() - began < 1.0
    given = serving.control.frames(sent)
    done = given[-1]
    assert isinstance(done, Done)
    assert done.cancelled
    content = sum(isinstance(frame, Data) for frame in given)
    assert done.usage == Usage(5, content)  # every token that was relayed is counted, and no other
    receipt = receipt_of(serving, done)
    assert receipt.outcome == "cancelled"
    assert receipt.output_commitment == commitment(sent, given)


def test_a_cancelled_answer_in_one_piece_counts_its_prompt(serving: Serving) -> None:
    sent = serving.control.submit(serving.deployment, chat("[[tokens=1000 delay=0.02 tag=c2 ]] a b"), stream=False)
    wait_for(lambda: serving.request("start", "c2"))
    serving.control.cancel(sent)
    done = serving.control.frames(sent)[-1]
    assert isinstance(done, Done)
    assert done.cancelled
    assert done.usage == Usage(6, 0, exact=False)
    assert serving.request("aborted", "c2")


def test_a_job_cancelled_while_it_waited_never_reaches_the_engine(serving: Serving) -> None:
    sent = serving.control.prepare(serving.deployment, chat("[[tag=c3 ]]"))
    serving.control.store.hset(keys.job(sent.job), mapping={"attempt": 1, "cancelled": 1})
    push(serving, sent)
    done = serving.control.frames(sent)[-1]
    assert isinstance(done, Done)
    assert done.cancelled
    assert done.usage.completion_tokens == 0
    assert not serving.request("start", "c3")


def test_a_raised_attempt_fences_the_old_one_off(serving: Serving) -> None:
    before = stale(serving)
    first = serving.control.submit(serving.deployment, chat("[[tokens=1000 delay=0.02 tag=f1 ]]"))
    wait_for(lambda: len(serving.control.arrived(first)) > 3)
    second = serving.control.submit(serving.deployment, chat("[[tokens=3 tag=f2 ]]"), job=first.job, attempt=2)
    assert text_of(serving.control.frames(second)) == " f20 f21 f22"
    wait_for(lambda: serving.request("aborted", "f1"), 2)
    written = len(serving.control.entries(first))
    time.sleep(0.5)
    assert len(serving.control.entries(first)) == written
    assert not any(isinstance(frame, (Done, Failed)) for frame in serving.control.arrived(first))
    wait_for(lambda: stale(serving) > before, 3)


def test_whole_answers_are_counted_and_no_others(serving: Serving) -> None:
    before, start = answered(serving)
    assert len(start) == 16
    for _ in range(2):
        serving.ask(chat("[[tokens=3]]"))
    wait_for(lambda: answered(serving) == (before + 2, start), 5)
    cancelled = serving.control.submit(serving.deployment, chat("[[tokens=1000 delay=0.02 tag=w1 ]] x"))
    wait_for(lambda: len(serving.control.arrived(cancelled)) > 3)
    serving.control.cancel(cancelled)
    serving.control.frames(cancelled)
    serving.ask(chat("[[tokens=3]]"))
    wait_for(lambda: answered(serving)[0] > before + 2, 5)
    assert answered(serving) == (before + 3, start)


def answered(serving: Serving) -> tuple[int, str]:
    report = serving.worker.report()
    return (report.answered, report.start) if report else (-1, "")


def stale(serving: Serving) -> int:
    report = serving.worker.report()
    return report.stale if report else 0


def push(serving: Serving, sent: Sent) -> None:
    from tests.inference_worker.harness import celery_envelope

    queue = keys.queue(serving.deployment.deployment)
    serving.control.store.lpush(queue, celery_envelope(sent.message, queue))


def test_frames_reach_the_web_process_only_while_it_lives(serving: Serving) -> None:
    store, replies = serving.control.store, keys.replies(serving.control.owner)
    sent, _ = serving.ask(chat("[[tokens=3]]"))
    assert not store.exists(replies)
    store.xadd(replies, {"hello": "1"})
    sent, given = serving.ask(chat("[[tokens=3]]"))
    entries: Any = store.xrange(replies)
    cipher = sealing.FrameCipher(sent.reply_secret, sent.job, 1)
    relayed = [(fields[b"j"].decode(), cipher.open(int(fields[b"s"]), fields[b"f"])) for _, fields in entries[1:]]
    assert {job for job, _ in relayed} == {sent.job}
    assert len(relayed) == len(serving.control.entries(sent))
    assert given
    store.delete(replies)


@pytest.mark.parametrize(
    ("text", "stream", "expected"),
    [
        ("[[error=400]]", True, (400, "invalid_request", False)),
        ("[[error=400]]", False, (400, "invalid_request", False)),
        ("[[error=500]]", False, (500, "engine_failed", True)),
        ("[[tokens=9 stream_error=2]]", True, (500, "engine_failed", True)),
    ],
)
def test_the_engines_errors(serving: Serving, text: str, stream: bool, expected: tuple[int, str, bool]) -> None:
    _, given = serving.ask(chat(f"{text} my secret prompt"), stream=stream)
    failed = given[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.retry) == expected
    assert "secret" not in failed.message
    assert receipt_of(serving, failed).outcome == "failed"
    if failed.status == 400:
        assert failed.param == "messages"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat("x", chat_template="{{ x }}"), "chat_template"),
        ("/v1/load_lora_adapter", {"lora_path": "x"}, None),
        ("/v1/chat/completions", b"not json", None),
        ("/v1/chat/completions", b"[1]", None),
        ("/tokenize", {"prompt": "x"}, "stream"),
    ],
)
def test_what_the_worker_does_not_pass_on(serving: Serving, path: str, body: Any, param: str | None) -> None:
    _, given = serving.ask(body, path=path, stream=True)
    failed = given[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.param, failed.retry) == (400, "invalid_request", param, False)


def test_no_prompt_and_no_answer_is_in_the_log(serving: Serving) -> None:
    serving.ask(chat("[[tokens=3 tag=zebra ]] giraffe"))
    serving.ask(chat("[[error=400]] giraffe"))
    serving.ask(b'{"giraffe": ')
    logs = serving.worker.log + "".join(file.read_text() for file in (serving.worker.state_dir / "logs").iterdir())
    assert "giraffe" not in logs
    assert "zebra" not in logs
    assert "is ready" in logs  # the log is the one that the worker writes
