"""Attacks on the ticket, with the broker in the attacker's hands: each is refused before the payload is opened.

The control of every attack is the same job unaltered, which runs.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from inference_worker.contract import keys
from inference_worker.contract.frames import Done
from inference_worker.contract.messages import JobMessage, Refusal, RefusalCode, Ticket, now, signed
from inference_worker.contract.signing import Purpose, Signer, Verifier, b64, key_id, unb64
from inference_worker.identity import Identity
from inference_worker.tasks.gate import Gate, NotReady, Refused
from inference_worker.tasks.seen import Seen
from tests.inference_worker.harness import Sent, Serving, celery_envelope, chat, wait_for

Attack = Callable[[Serving, Sent], JobMessage]


def change(sent: Sent, **fields: Any) -> JobMessage:
    return msgspec.structs.replace(sent.message, **fields)


def flip(text: str, at: int) -> str:
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def forged(serving: Serving, sent: Sent) -> JobMessage:
    """Signed by somebody else's key."""
    ticket = msgspec.json.decode(unb64(sent.ticket.split(".")[1]), type=Ticket)
    return change(sent, ticket=signed(Signer(Ed25519PrivateKey.generate()), Purpose.TICKET, ticket))


def forged_under_our_key_id(serving: Serving, sent: Sent) -> JobMessage:
    other = forged(serving, sent).ticket
    return change(sent, ticket=".".join([serving.control.signer.key_id, *other.split(".")[1:]]))


def altered_ticket(serving: Serving, sent: Sent) -> JobMessage:
    head, body, signature = sent.ticket.split(".")
    longer = unb64(body).replace(b'"expires":', b'"expires":9')
    return change(sent, ticket=f"{head}.{b64(longer)}.{signature}")


def another_purpose(serving: Serving, sent: Sent) -> JobMessage:
    """Our own key, but signed as an assignment."""
    ticket = msgspec.json.decode(unb64(sent.ticket.split(".")[1]), type=Ticket)
    return change(sent, ticket=signed(serving.control.signer, Purpose.ASSIGNMENT, ticket))


def unsigned(serving: Serving, sent: Sent) -> JobMessage:
    return change(sent, ticket=sent.ticket.rpartition(".")[0] + ".")


def ticket_of_another_job(serving: Serving, sent: Sent) -> JobMessage:
    other = serving.control.prepare(serving.deployment, chat("x"))
    return change(sent, ticket=other.ticket)


def another_attempt(serving: Serving, sent: Sent) -> JobMessage:
    return change(sent, attempt=2)


def expired(serving: Serving, sent: Sent) -> JobMessage:
    ticket = msgspec.json.decode(unb64(sent.ticket.split(".")[1]), type=Ticket)
    late = msgspec.structs.replace(ticket, expires=now() - 1)
    return change(sent, ticket=signed(serving.control.signer, Purpose.TICKET, late))


def altered_payload(serving: Serving, sent: Sent) -> JobMessage:
    return change(sent, payload=flip(sent.message.payload, len(sent.message.payload) // 2))


def payload_of_another_job(serving: Serving, sent: Sent) -> JobMessage:
    return change(sent, payload=serving.control.prepare(serving.deployment, chat("x")).message.payload)


def payload_is_no_base64(serving: Serving, sent: Sent) -> JobMessage:
    return change(sent, payload="???")


ATTACKS: list[tuple[Attack, RefusalCode]] = [
    (forged, RefusalCode.BAD_TICKET),
    (forged_under_our_key_id, RefusalCode.BAD_TICKET),
    (altered_ticket, RefusalCode.BAD_TICKET),
    (another_purpose, RefusalCode.BAD_TICKET),
    (unsigned, RefusalCode.BAD_TICKET),
    (ticket_of_another_job, RefusalCode.BAD_TICKET),
    (another_attempt, RefusalCode.BAD_TICKET),
    (expired, RefusalCode.EXPIRED),
    (altered_payload, RefusalCode.PAYLOAD_ALTERED),
    (payload_of_another_job, RefusalCode.PAYLOAD_ALTERED),
    (payload_is_no_base64, RefusalCode.PAYLOAD_ALTERED),
]

OTHER_TICKETS: list[tuple[dict[str, Any], RefusalCode]] = [
    ({"sites": []}, RefusalCode.WRONG_SITE),
    ({"sites": [str(uuid.uuid4())]}, RefusalCode.WRONG_SITE),
    ({"deployment": str(uuid.uuid4())}, RefusalCode.WRONG_DEPLOYMENT),
    ({"model_digest": "0" * 64}, RefusalCode.WRONG_MODEL),
    ({"version": 2}, RefusalCode.BAD_TICKET),
]


def put(serving: Serving, sent: Sent, message: JobMessage) -> None:
    """What an attacker with the broker's password can do: any message, and a job hash that lets it be claimed."""
    queue = keys.queue(serving.deployment.deployment)
    serving.control.store.hset(keys.job(message.job), "attempt", str(message.attempt))
    serving.control.store.lpush(queue, celery_envelope(message, queue))


def refusal(serving: Serving, job: str) -> Refusal:
    """The signed report of a job's refusal."""
    return wait_for(lambda: next((found for found in serving.control.refusals() if found.job == job), None))  # type: ignore[return-value]


def runs(serving: Serving, sent: Sent) -> bool:
    return isinstance(serving.control.frames(sent)[-1], Done)


@pytest.mark.parametrize(("attack", "code"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_an_altered_message_is_refused_and_reported(serving: Serving, attack: Attack, code: RefusalCode) -> None:
    sent = serving.control.prepare(serving.deployment, chat(f"[[tokens=2 tag={attack.__name__} ]]"))
    message = attack(serving, sent)
    before = reported(serving)
    put(serving, sent, message)
    found = refusal(serving, message.job)
    assert (found.code, found.attempt, found.site) == (code, message.attempt, serving.control.site)
    assert not serving.control.store.exists(keys.frames(sent.job, sent.attempt))
    assert not serving.request("start", attack.__name__)
    wait_for(lambda: reported(serving) > before, 3)
    put(serving, sent, sent.message)
    assert runs(serving, sent), "the unaltered message must run, or the test shows nothing"
    assert serving.request("start", attack.__name__)


def reported(serving: Serving) -> int:
    report = serving.worker.report()
    return report.refused if report else 0


@pytest.mark.parametrize(("fields", "code"), OTHER_TICKETS)
def test_a_ticket_for_something_else_is_refused(serving: Serving, fields: dict[str, Any], code: RefusalCode) -> None:
    sent = serving.control.prepare(serving.deployment, chat("[[tokens=2]]"), ticket=fields)
    put(serving, sent, sent.message)
    assert refusal(serving, sent.job).code == code
    assert not serving.control.store.exists(keys.frames(sent.job, sent.attempt))
    control = serving.control.prepare(serving.deployment, chat("[[tokens=2]]"))
    put(serving, control, control.message)
    assert runs(serving, control)


def test_a_replay_is_refused_though_the_store_was_wiped(serving: Serving) -> None:
    sent = serving.control.prepare(serving.deployment, chat("[[tokens=2 tag=replayed ]]"))
    put(serving, sent, sent.message)
    assert runs(serving, sent)
    serving.control.store.delete(keys.job(sent.job), keys.frames(sent.job, 1))
    put(serving, sent, sent.message)
    assert refusal(serving, sent.job).code == RefusalCode.REPLAYED
    assert len(serving.request("start", "replayed")) == 1


def test_a_second_delivery_while_the_first_runs_does_no_harm(serving: Serving) -> None:
    sent = serving.control.prepare(serving.deployment, chat("[[tokens=20 delay=0.02 tag=doubled ]]"))
    put(serving, sent, sent.message)
    wait_for(lambda: serving.control.arrived(sent))
    put(serving, sent, sent.message)
    assert refusal(serving, sent.job).code == RefusalCode.REPLAYED
    assert runs(serving, sent)
    assert len(serving.request("start", "doubled")) == 1


def test_a_payload_sealed_for_another_site_cannot_be_opened(serving: Serving) -> None:
    """The ticket is right, the seal is not: the keys hold where the rules would fail."""
    own = serving.control.site_key
    serving.control.site_key = X25519PrivateKey.generate()
    sent = serving.control.prepare(serving.deployment, chat("[[tokens=2]]"))
    serving.control.site_key = own
    put(serving, sent, sent.message)
    assert refusal(serving, sent.job).code == RefusalCode.CANNOT_OPEN


@pytest.mark.parametrize("arguments", [[], ["x"], [{"job": 1}], [{}, {}], [{"job": "a", "attempt": "b"}]])
def test_a_message_that_is_none_does_no_harm(serving: Serving, arguments: list[Any]) -> None:
    queue = keys.queue(serving.deployment.deployment)
    sent = serving.control.prepare(serving.deployment, chat("[[tokens=2]]"))
    good = celery_envelope(sent.message, queue)
    bad = json.loads(good)
    bad["body"] = base64.b64encode(json.dumps([arguments, {}, {}]).encode()).decode()
    serving.control.store.lpush(queue, json.dumps(bad), b"not json at all")
    put(serving, sent, sent.message)
    assert runs(serving, sent)


def test_a_refusal_tells_nothing_of_the_payload(serving: Serving) -> None:
    sent = serving.control.prepare(serving.deployment, chat("[[tag=unread ]] secret"), ticket={"sites": []})
    put(serving, sent, sent.message)
    refusal(serving, sent.job)
    time.sleep(0.1)
    assert "secret" not in serving.worker.log
    assert sent.message.payload[:40] not in serving.worker.log


def test_the_guards_are_what_refuses(serving: Serving) -> None:
    """The negative control: without the right key, site or digest in the gate's hands, the attacks would pass."""
    control, deployment = serving.control, serving.deployment
    attacker = Signer(Ed25519PrivateKey.generate())

    def identity(trusted: Signer) -> Identity:
        keys_of_site = {key_id(control.site_key.public_key().public_bytes_raw()): control.site_key}
        return Identity(
            "w", control.site, control.signer, control.site_key, Verifier([trusted.public]), b"", site_keys=keys_of_site
        )

    sent = control.prepare(deployment, chat("x"))
    ticket = msgspec.json.decode(unb64(sent.ticket.split(".")[1]), type=Ticket)
    message = msgspec.to_builtins(change(sent, ticket=signed(attacker, Purpose.TICKET, ticket)))
    with pytest.raises(Refused, match="bad_ticket"):
        Gate(identity(control.signer), lambda _: deployment.model_digest).admit(message)
    assert Gate(identity(attacker), lambda _: deployment.model_digest).admit(message).ticket == ticket
    with pytest.raises(Refused, match="wrong_model"):
        Gate(identity(attacker), lambda _: "0" * 64).admit(message)
    with pytest.raises(NotReady):
        Gate(identity(attacker), lambda _: "").admit(message)


def test_a_worker_that_was_cut_off_looks_at_its_assignment_before_it_refuses_an_unknown_key(serving: Serving) -> None:
    control, deployment, strange = serving.control, serving.deployment, X25519PrivateKey.generate()
    sent = control.prepare(deployment, chat("x"))
    message = msgspec.to_builtins(sent.message)

    def gate(*, informed: bool, signer: Signer = control.signer, site_key: X25519PrivateKey = control.site_key) -> Gate:
        keys_of_site = {key_id(site_key.public_key().public_bytes_raw()): site_key}
        believed = Verifier([signer.public])
        identity = Identity("w", control.site, control.signer, control.site_key, believed, b"", site_keys=keys_of_site)
        return Gate(identity, lambda _: deployment.model_digest, lambda: informed)

    stranger = Signer(Ed25519PrivateKey.generate())
    for other, code in (({"signer": stranger}, "bad_ticket"), ({"site_key": strange}, "cannot_open")):
        with pytest.raises(Refused, match=code):
            gate(informed=True, **other).admit(message)
        cut_off = gate(informed=False, **other)
        for _ in range(2):
            with pytest.raises(NotReady):
                cut_off.admit(message)
    altered = msgspec.to_builtins(altered_ticket(serving, sent))
    with pytest.raises(Refused, match="bad_ticket"):
        gate(informed=False).admit(altered)
    assert gate(informed=False).admit(message), "the control: what it knows it takes"


def test_attempts_are_forgotten_when_their_tickets_are_of_no_use_any_more() -> None:
    seen = Seen()
    seen.add("a", 1, expires=1000, now=500)
    seen.add("b", 1, expires=5000, now=500)
    assert seen.has("a", 1, 1000)
    assert not seen.has("a", 2, 1000)
    seen.add("c", 1, expires=5000, now=2000)
    assert len(seen) == 2
    assert seen.has("a", 1, 1000)  # it still runs
    seen.end("a", 1)
    assert not seen.has("a", 1, 1000)
    seen.end("b", 1)
    assert seen.has("b", 1, 5000)
