"""Frames as events: ids, usage, and what was seen before."""

from __future__ import annotations

import json

import pytest

from inference_worker.contract.frames import Data, Role
from inference_worker.contract.messages import Usage
from kasbah.gateway.sse import DONE, Events, Renamed, without_ids

ROLE = Role(b'{"id":"theirs","object":"o","created":7,"model":"m","choices":[{"delta":{"role":"assistant"}}]}')
DATA = Data(b'{"id":"theirs","object":"o","created":7,"model":"m","choices":[{"delta":{"content":"theirs"}}]}')


def data_of(event: bytes) -> dict[str, object]:
    """The JSON of one event."""
    assert event.endswith(b"\n\n")
    loaded: dict[str, object] = json.loads(event.split(b"data: ", 1)[1])
    return loaded


def test_the_id_is_ours_and_nothing_else_changes() -> None:
    rename = Renamed("ours")
    for frame in (ROLE, DATA, DATA):
        assert json.loads(rename(frame.chunk)) == {**json.loads(frame.chunk), "id": "ours"}


@pytest.mark.parametrize(
    "text",
    [
        b'{"object":"o","id":"theirs"}',
        b'{ "id": "theirs" }',
        b'{"id":"other","x":{"id":"theirs"}}',
        b'{"x":1}',
        b'{"id":"with \\" quote","x":1}',
    ],
)
def test_wherever_the_id_stands(text: bytes) -> None:
    rename = Renamed("ours")
    rename(DATA.chunk)
    before = json.loads(text)
    assert json.loads(rename(text)) == ({**before, "id": "ours"} if "id" in before else before)


def test_usage_is_null_until_the_last_chunk_when_asked_for() -> None:
    events = Events("ours", 1, include_usage=True)
    assert data_of(events.chunk(DATA))["usage"] is None
    last, done = events.end(Usage(3, 4)).split(b"data: [DONE]")
    assert done == b"\n\n"
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert data_of(last) == {
        "id": "ours", "object": "o", "created": 7, "model": "m", "choices": [], "usage": usage,
    }  # fmt: skip


def test_usage_is_absent_when_not_asked_for() -> None:
    events = Events("ours", 1, include_usage=False)
    assert "usage" not in data_of(events.chunk(DATA))
    assert events.end(Usage(3, 4)) == DONE


def test_what_the_client_has_is_left_out_and_numbers_go_on() -> None:
    events = Events("ours", 2, include_usage=False, ids=True, after=2)
    assert [events.chunk(frame).partition(b"\n")[0] for frame in (ROLE, DATA, DATA, DATA)] == [
        b"", b"", b"id: 2-3", b"id: 2-4",
    ]  # fmt: skip


def test_an_event_is_its_data_line_alone_unless_ids_were_asked_for() -> None:
    plain = Events("ours", 1, include_usage=False)
    numbered = Events("ours", 1, include_usage=False, ids=True)
    for number, frame in enumerate((ROLE, DATA), 1):
        event = plain.chunk(frame)
        assert event.startswith(b"data: {")
        assert event.count(b"\n") == 2
        assert numbered.chunk(frame) == b"id: 1-%d\n%s" % (number, event)


def test_stored_events_lose_their_ids_and_nothing_else() -> None:
    chunk = Data(b'{"id":"theirs","choices":[{"delta":{"content":"id: 1-1\\nid: 2-2\\n"}}]}')
    plain, numbered = (Events("ours", 1, include_usage=True, ids=ids) for ids in (False, True))
    stored = b"".join([numbered.chunk(chunk), numbered.chunk(DATA), numbered.end(Usage(1, 2))])
    assert without_ids(stored) == b"".join([plain.chunk(chunk), plain.chunk(DATA), plain.end(Usage(1, 2))])


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_no_character_of_an_answer_ends_its_line_for_a_text_reader(character: str) -> None:
    text = f"“a”{character}b"
    chunk = Data(json.dumps({"id": "theirs", "choices": [{"delta": {"content": text}}]}, ensure_ascii=False).encode())
    assert len(chunk.chunk.decode().splitlines()) == 2, "the engine writes it raw"
    event = Events("ours", 1, include_usage=False).chunk(chunk)
    assert len(event.decode().splitlines()) == 2  # the data and the blank line
    assert data_of(event)["choices"] == [{"delta": {"content": text}}]
