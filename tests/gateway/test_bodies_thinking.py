"""The switches of thinking pass, typed and by family; no other variable of a chat template does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from inference_worker.contract import thinking as contract
from inference_worker.contract.messages import Payload
from inference_worker.stream import request
from kasbah.common.errors import Invalid
from kasbah.gateway.bodies import base, chat, completion, embedding, thinking, tokenize
from kasbah.gateway.bodies.thinking import FAMILIES, Effort, TemplateSwitches

MESSAGES = [{"role": "user", "content": "x"}]
REFERENCE = Path(__file__).parents[2] / "docs" / "developer" / "reference.md"
# What vLLM's templates would read, or a template of its own could be made of.
VARIABLES: list[dict[str, Any]] = [
    {"chat_template": "{{ 1 }}"},
    {"tokenize": False},
    {"messages": []},
    {"tools": []},
    {"documents": [{"text": "x"}]},
    {"add_generation_prompt": False},
    {"continue_final_message": True},
    {"model_identity": "You are root"},
    {"builtin_tools": ["python"]},
    {"custom_instructions": "x"},
    {"thinking_budget": 5},
    {"enable_thinking": True, "x": None},
]
WRONG: list[dict[str, Any]] = [
    {"enable_thinking": "false"},
    {"enable_thinking": 0},
    {"thinking": {"type": "disabled"}},
    {"thinking": [True]},
    {"reasoning_effort": "a lot"},
    {"reasoning_effort": 5},
    {"reasoning_effort": True},
]


def decode(switches: Any, decoder: Any = chat.DECODER) -> Any:
    body = base.decode(
        decoder, json.dumps({"model": "m", "messages": MESSAGES, "chat_template_kwargs": switches}).encode()
    )
    body.check(2048)
    return body


def prepared(switches: Any) -> dict[str, Any]:
    """What the worker gives its engine."""
    body = json.dumps({"messages": MESSAGES, "chat_template_kwargs": switches}).encode()
    payload = Payload(path=request.CHAT, body=body, stream=False, reply_secret=b"")
    given: dict[str, Any] = json.loads(request.prepare(payload, model="m", salt="s").body)
    return given


@pytest.mark.parametrize("decoder", [chat.DECODER, tokenize.DECODER])
@pytest.mark.parametrize(
    "switches",
    [
        {"enable_thinking": False},
        {"thinking": True},
        {"reasoning_effort": "low"},
        {"enable_thinking": True, "thinking": None},
    ],
)
def test_the_known_switches_reach_the_engine(switches: dict[str, Any], decoder: Any) -> None:
    body = decode(switches, decoder)
    body.check_model("SomethingForCausalLM")
    given = {name: value for name, value in switches.items() if value is not None}
    assert json.loads(body.for_engine())["chat_template_kwargs"] == given
    assert prepared(given)["chat_template_kwargs"] == given


@pytest.mark.parametrize("switches", [None, {}])
def test_none_are_none(switches: Any) -> None:
    body = decode(switches)
    body.check_model("Qwen3ForCausalLM")
    assert not json.loads(body.for_engine()).get("chat_template_kwargs")
    prepared(switches)


@pytest.mark.parametrize("variables", VARIABLES)
def test_no_other_variable_of_a_template_passes_gateway_or_worker(variables: dict[str, Any]) -> None:
    for decoder in (chat.DECODER, tokenize.DECODER):
        with pytest.raises(Invalid) as raised:
            decode(variables, decoder)
        assert raised.value.code == "unknown_field"
        assert (raised.value.param or "").startswith("chat_template_kwargs.")
    with pytest.raises(request.RequestRefused) as refused:
        prepared(variables)
    assert refused.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("variables", WRONG)
def test_values_are_typed_at_both(variables: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as raised:
        decode(variables)
    assert (raised.value.param or "").startswith("chat_template_kwargs.")
    with pytest.raises(request.RequestRefused):
        prepared(variables)


def test_control_with_the_workers_guard_off_they_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "is_allowed", lambda name, value: True)
    for variables in [*VARIABLES, *WRONG]:
        assert prepared(variables)["chat_template_kwargs"] == variables


@pytest.mark.parametrize("decoder", [completion.DECODER, embedding.DECODER])
def test_only_conversations_have_switches(decoder: Any) -> None:
    data = {"model": "m", "prompt": "x", "chat_template_kwargs": {"enable_thinking": False}}
    with pytest.raises(Invalid) as raised:
        base.decode(decoder, json.dumps(data).encode())
    assert raised.value.code == "unknown_field"
    text = base.decode(tokenize.DECODER, json.dumps(data).encode())
    with pytest.raises(Invalid) as raised:
        text.check(2048)
    assert raised.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("architecture", "reads", "unread"),
    [
        ("Qwen3MoeForCausalLM", "enable_thinking", "thinking"),
        ("Glm4MoeForCausalLM", "enable_thinking", "thinking"),
        ("DeepseekV3ForCausalLM", "thinking", "reasoning_effort"),
        ("GraniteMoeHybridForCausalLM", "thinking", "enable_thinking"),
        ("GptOssForCausalLM", "reasoning_effort", "enable_thinking"),
    ],
)
def test_a_switch_that_the_family_does_not_read_is_refused_with_the_right_one(
    architecture: str, reads: str, unread: str
) -> None:
    values: dict[str, Any] = {"enable_thinking": False, "thinking": False, "reasoning_effort": "none"}
    decode({reads: values[reads]}).check_model(architecture)
    with pytest.raises(Invalid, match=reads) as raised:
        decode({unread: values[unread]}).check_model(architecture)
    assert raised.value.param == f"chat_template_kwargs.{unread}"


@pytest.mark.parametrize("architecture", ["", "MixtralForCausalLM", "LlamaForCausalLM", "MyQwen3"])
def test_a_model_that_is_not_listed_gets_what_was_sent(architecture: str) -> None:
    decode({"enable_thinking": False, "thinking": False, "reasoning_effort": "none"}).check_model(architecture)


def test_contract_gateway_and_documentation_name_the_same() -> None:
    assert set(TemplateSwitches.__struct_fields__) == contract.SWITCHES
    assert set(get_args(Effort)) == contract.EFFORTS
    section = REFERENCE.read_text().split("| family | switches |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| ([^|`-][^|]*) \| ([^|]*) \|$", section, re.MULTILINE))
    documented = {family: set(re.findall(r"`(\w+)`", switches)) for family, switches in rows.items()}
    assert documented == {family: set(switches) for _, family, switches in FAMILIES}
    assert thinking.__doc__
