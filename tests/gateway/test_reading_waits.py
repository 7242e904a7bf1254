"""Bodies that cost much: nothing is made of what is not read, and large ones leave the loop to others in between."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from kasbah.common.errors import Invalid
from kasbah.gateway import reading
from kasbah.gateway.app import create_app
from kasbah.gateway.bodies import base, chat, schemas, tokenize
from kasbah.gateway.reading import Reading
from kasbah.gateway.runtime import Runtime

SIZE = 4_000_000
# JSON that is slow to make objects of: many small ones, deep ones, keys, and numbers that are hard to round.
COSTLY = {
    "lists": b"[" + b"[]," * (SIZE // 3) + b"0]",
    "nested lists": b"[" + (b"[" * 900 + b"]" * 900 + b",") * (SIZE // 1801) + b"0]",
    "keys": b"{" + b",".join(b'"%x":[]' % number for number in range(SIZE // 12)) + b"}",
    "numbers": b"[" + b"2.2250738585072011e-308," * (SIZE // 24) + b"0]",
}
START = b'{"model":"m","messages":[{"role":"user","content":"x"%b}]%b}'
# Where a client may write JSON of its own: what stands before it and after it in the body.
FREE = {
    "annotations": (b',"annotations":%b', b""),
    "parsed": (b',"parsed":%b', b""),
    "prediction": (b"", b',"prediction":%b'),
    "prompt_cache_options": (b"", b',"prompt_cache_options":%b'),
    "metadata": (b"", b',"metadata":%b'),
    "logit_bias": (b"", b',"logit_bias":%b'),
    "schema": (b"", b',"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":%b}}'),
    "parameters": (b"", b',"tools":[{"type":"function","function":{"name":"f","parameters":%b}}]'),
}
UNREAD = {"annotations", "parsed", "prediction", "prompt_cache_options"}


def body_of(field: str, value: bytes) -> bytes:
    inside, behind = FREE[field]
    return START % (inside and inside % value, behind and behind % value)


def seconds(work: Any) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


@pytest.mark.parametrize("field", FREE)
@pytest.mark.parametrize("costly", COSTLY)
def test_nothing_is_made_of_a_large_value_that_is_not_read(field: str, costly: str) -> None:
    data = body_of(field, COSTLY[costly])

    def understand() -> None:
        body = base.decode(chat.DECODER, data)
        if field in UNREAD:
            body.check(2048)
            assert field.encode() not in body.for_engine()
        else:
            with pytest.raises(Invalid) as refused:
                body.check(2048)
            assert field in (refused.value.param or "")

    # The control: made into objects, it takes several times as long.
    assert seconds(understand) < seconds(lambda: msgspec.json.decode(data)) / 3


def test_free_forms_are_read_within_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    large = json.dumps({"type": "object", "description": "x" * 100_000}).encode()
    monkeypatch.setattr(schemas, "MAX_BYTES", 50_000)
    for field, decoder in (("schema", chat.DECODER), ("parameters", chat.DECODER), ("parameters", tokenize.DECODER)):
        with pytest.raises(Invalid) as refused:
            base.decode(decoder, body_of(field, large)).check(2048)
        assert refused.value.code == "schema_too_complex"
    with pytest.raises(Invalid) as refused:
        base.decode(chat.DECODER, body_of("metadata", large)).check(2048)
    assert refused.value.param == "metadata"


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("metadata", b'{"a":1}', "metadata[...]"),
        ("metadata", b"[]", "metadata"),
        ("logit_bias", b'{"1":101}', "logit_bias[...]"),
        ("logit_bias", b"5", "logit_bias"),
        ("schema", b"[]", "response_format.json_schema.schema"),
        ("schema", b"null", "response_format.json_schema"),
        ("parameters", b'{"a":1e999}', "tools[0].function.parameters[...]"),
    ],
)
def test_what_is_wrong_in_them_is_named_from_the_body_s_begin(field: str, value: bytes, param: str) -> None:
    with pytest.raises(Invalid) as refused:
        base.decode(chat.DECODER, body_of(field, value)).check(2048)
    assert refused.value.param == param


def test_the_engine_gets_what_was_understood_and_nothing_else() -> None:
    """Programs differ on which of two equal keys counts; the engine sees the one that was checked."""
    for field, value, seen in (
        ("parameters", b'{"type": "object", "type": "array"}', b'"parameters":{"type":"array"}'),
        ("schema", b'{"a":1,"a":2}', b'"schema":{"a":2}'),
        ("logit_bias", b'{"7":1,"7":-1}', b'"logit_bias":{"7":-1.0}'),
        ("parameters", b"null", b'"function":{"name":"f"}'),
        ("logit_bias", b"null", b'{"model":"m","messages":[{"role":"user","content":"x"}]}'),
    ):
        body = base.decode(chat.DECODER, body_of(field, value))
        body.check(2048)
        assert seen in body.for_engine()


async def _order() -> list[str]:
    """What the loop does while four large bodies of one tenant and one of another are there at once."""
    done: list[str] = []
    finance, hospital = uuid4(), uuid4()

    def work(name: str) -> None:
        done.append(name)
        time.sleep(0.02)

    async def others() -> None:
        while True:
            done.append(".")
            await asyncio.sleep(0)

    read = Reading().read
    large = [(finance, "f")] * 4 + [(hospital, "h")]
    reads = [asyncio.create_task(read(SIZE, who, partial(work, name))) for who, name in large]
    other = asyncio.create_task(others())
    await asyncio.gather(*reads)
    other.cancel()
    return done


async def test_large_bodies_take_turns_and_leave_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    done = "".join(await _order())
    assert "ff" not in done
    assert done.replace(".", "").index("h") <= 2, "the other tenant waits for no more than what had begun"
    # The control: without turns all of one tenant's come first, and nobody else has the loop meanwhile.
    monkeypatch.setattr(reading, "LARGE", 10**9)
    assert "".join(await _order()).startswith("ffffh")


async def test_what_lives_as_long_as_the_process_is_left_out_of_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large body causes several, and each would look at every object of the program."""

    async def nothing(self: Any) -> None:
        """In place of connecting."""

    monkeypatch.setattr(Runtime, "open", nothing)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        if len(messages) == 1:
            assert gc.get_freeze_count() > 10_000
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    try:
        gc.unfreeze()
        await create_app()({"type": "lifespan"}, receive, send)
    finally:
        gc.unfreeze()
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_parts_of_a_conversation_cause_no_collections() -> None:
    call = {"id": "1", "function": {"name": "f"}}
    message = {"role": "assistant", "content": [{"type": "text", "text": "x"}], "tool_calls": [call]}
    data = json.dumps({"model": "m", "messages": [message]}).encode()
    said = base.decode(chat.DECODER, data).messages[0]
    assert isinstance(said.content, list)
    assert said.tool_calls is not None
    for made in (said, said.content[0], said.tool_calls[0], said.tool_calls[0].function):
        assert not gc.is_tracked(made)
    # The control: the body itself is of the ordinary kind.
    assert gc.is_tracked(base.decode(chat.DECODER, data))
