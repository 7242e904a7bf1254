"""The official SDK against the whole platform with a fake engine: what it returns, raises, and tries again."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

from kasbah.metering.services import set_limit
from tests import factories
from tests.factories import Household
from tests.gateway.calls import jobs_of, usage_of
from tests.gateway.conftest import client_of, stack  # noqa: F401 - fixtures
from tests.gateway.stack import Stack, everything, wait_until

MESSAGES = [{"role": "user", "content": "hello [[tokens=4]]"}]


@pytest.fixture
def sdk(stack: Stack, client_of: Household) -> openai.OpenAI:  # noqa: F811
    """The client as an application makes it, two tries and all."""
    return sdk_of(stack, client_of)


def sdk_of(stack: Stack, who: Household, key: str = "") -> openai.OpenAI:  # noqa: F811
    return openai.OpenAI(base_url=f"{stack.web.url}/v1", api_key=key or who.key_text, timeout=30)


def requests_in_log(stack: Stack, who: Household) -> int:  # noqa: F811
    """How many requests of this key reached the server; their lines are written when the answer has gone out."""
    deadline = time.monotonic() + 5
    while not (found := stack.web.log.read_text().count(f"key={who.key.id}")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_models(sdk: openai.OpenAI) -> None:
    [model] = sdk.models.list().data
    assert model.id == "mini"
    assert sdk.models.retrieve("mini") == model


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="mini", messages=MESSAGES)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == " t0 t1 t2 t3"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6
    assert answer.id == f"chatcmpl-{answer._request_id}"


def test_chat_stream_and_its_helper(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="mini", messages=MESSAGES) as stream:  # type: ignore[arg-type]
        kinds = {event.type for event in stream}
        snapshot = stream.current_completion_snapshot
    assert {"chunk", "content.delta"} <= kinds
    assert snapshot.choices[0].message.content == " t0 t1 t2 t3"


def test_what_was_answered_goes_on_as_history(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="mini", messages=MESSAGES) as stream:  # type: ignore[arg-type]
        assert list(stream)
        streamed = stream.current_completion_snapshot.choices[0].message
    whole = sdk.chat.completions.create(model="mini", messages=MESSAGES).choices[0].message  # type: ignore[arg-type]
    silent = whole.model_copy(update={"content": None, "tool_calls": [], "reasoning": "hm"})
    for earlier in (streamed, whole, silent, silent.model_dump()):
        history = [*MESSAGES, earlier, *MESSAGES]
        answer = sdk.chat.completions.create(model="mini", messages=history)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == " t0 t1 t2 t3"


def test_completions_and_embeddings(sdk: openai.OpenAI) -> None:
    assert sdk.completions.create(model="mini", prompt="x [[tokens=2]]").choices[0].text == " t0 t1"
    plain = sdk.embeddings.create(model="mini", input="abcd", encoding_format="float")
    packed = sdk.embeddings.create(model="mini", input="abcd")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)


async def test_many_at_once_with_the_asynchronous_client(stack: Stack, client_of: Household) -> None:  # noqa: F811
    client = openai.AsyncOpenAI(base_url=f"{stack.web.url}/v1", api_key=client_of.key_text, timeout=60)

    async def ask(number: int) -> str:
        text = f"[[tokens=8 tag=n{number}- delay=0.01]]"
        stream = await client.chat.completions.create(
            model="mini", messages=[{"role": "user", "content": text}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    answers = await asyncio.gather(*(ask(number) for number in range(40)))
    assert answers == ["".join(f" n{number}-{i}" for i in range(8)) for number in range(40)]
    assert len(await asyncio.to_thread(usage_of, client_of)) == 40
    await client.close()


def test_errors_are_typed(stack: Stack, client_of: Household, sdk: openai.OpenAI) -> None:  # noqa: F811
    create = sdk.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="other", messages=MESSAGES)  # type: ignore[arg-type]
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        create(model="mini", messages=MESSAGES, n=99)  # type: ignore[arg-type]
    assert bad.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        sdk_of(stack, client_of, "ksb_wrong").models.list()
    headers = {"Idempotency-Key": "k"}
    create(model="mini", messages=MESSAGES, extra_headers=headers)  # type: ignore[arg-type]
    with pytest.raises(openai.UnprocessableEntityError):
        create(model="mini", messages=MESSAGES, seed=1, extra_headers=headers)  # type: ignore[arg-type]


def test_a_denial_is_not_tried_again(stack: Stack) -> None:  # noqa: F811
    who = stack.household({**everything(), "rules": []})
    with pytest.raises(openai.PermissionDeniedError) as denied:
        sdk_of(stack, who).chat.completions.create(model="mini", messages=MESSAGES)  # type: ignore[arg-type]
    assert denied.value.code == "residency_denied"
    assert requests_in_log(stack, who) == 1


def test_a_used_up_quota_is_not_tried_again_and_a_burst_is(stack: Stack) -> None:  # noqa: F811
    spent, hasty = stack.household(), stack.household()
    set_limit(factories.SYSTEM, spent.tenant, scope="tenant", subject_id=spent.tenant.id, tokens_per_period=10)
    with pytest.raises(openai.RateLimitError) as quota:
        sdk_of(stack, spent).chat.completions.create(model="mini", messages=MESSAGES)  # type: ignore[arg-type]
    assert quota.value.code == "insufficient_quota"
    assert requests_in_log(stack, spent) == 1
    # Twelve a minute: the bucket is empty after twelve, and holds one more five seconds after the first.
    set_limit(factories.SYSTEM, hasty.tenant, scope="tenant", subject_id=hasty.tenant.id, requests_per_minute=12)
    client = sdk_of(stack, hasty)
    begun = time.monotonic()
    for _ in range(13):
        client.chat.completions.create(model="mini", messages=MESSAGES, max_tokens=1)  # type: ignore[arg-type]
    assert len(jobs_of(hasty)) == 13
    assert requests_in_log(stack, hasty) > 13, "the SDK was told to wait, waited, and got its answer"
    assert time.monotonic() - begun < 20


def test_a_broken_stream_raises(sdk: openai.OpenAI) -> None:
    text = "[[tokens=9 stream_error=3 delay=0.1]]"
    stream = sdk.chat.completions.create(model="mini", messages=[{"role": "user", "content": text}], stream=True)
    with pytest.raises(openai.APIError, match="engine"):
        list(stream)


def test_a_stream_that_is_closed_stops_and_is_metered(sdk: openai.OpenAI, client_of: Household) -> None:  # noqa: F811
    text = "[[tokens=500 delay=0.05]]"
    stream = sdk.chat.completions.create(model="mini", messages=[{"role": "user", "content": text}], stream=True)
    for _ in range(4):
        next(stream)
    stream.close()
    wait_until(lambda: usage_of(client_of), "the usage", 5)
    [(_, completion)] = usage_of(client_of)
    assert 3 <= completion < 60
    assert jobs_of(client_of)[0].state == "cancelled"
