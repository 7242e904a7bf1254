"""What a model is made of, from the configurations of several families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kasbah.common.errors import Invalid
from kasbah.registry.scan import scan
from kasbah.registry.topology import topology_of

from .folders import model

NONE = dict.fromkeys(["num_local_experts", "num_experts_per_tok"])


def facts(folder: Path, **config: Any) -> dict[str, Any]:
    return topology_of(scan(model(folder, **config)))


def test_a_mixtral(tmp_path: Path) -> None:
    assert facts(tmp_path / "m") == {
        "architecture": "MixtralForCausalLM",
        "layers": 1,
        "hidden_size": 4,
        "attention_heads": 2,
        "kv_heads": 1,
        "vocabulary": 8,
        "context": 2048,
        "experts": 4,
        "experts_per_token": 2,
        "mixture_of_experts": True,
        "packed": False,
        "parameters": 48,
    }


@pytest.mark.parametrize(
    ("config", "experts", "chosen"),
    [
        ({**NONE, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1}, 256, 8),  # DeepSeek V3
        ({**NONE, "num_experts": 128, "num_experts_per_tok": 8}, 128, 8),  # Qwen 3 MoE
        ({**NONE, "num_local_experts": 32, "experts_per_token": 4}, 32, 4),  # gpt-oss
        ({**NONE, "text_config": {**NONE, "num_local_experts": 16, "num_experts_per_tok": 1, "num_hidden_layers": 48,
          "hidden_size": 5120, "vocab_size": 202048, "max_position_embeddings": 10485760}}, 16, 1),  # Llama 4
    ],
)  # fmt: skip
def test_experts_under_the_names_of_other_families(
    tmp_path: Path, config: dict[str, Any], experts: int, chosen: int
) -> None:
    found = facts(tmp_path / "m", **config)
    assert (found["experts"], found["experts_per_token"], found["mixture_of_experts"]) == (experts, chosen, True)


def test_a_dense_model(tmp_path: Path) -> None:
    found = facts(tmp_path / "m", architectures=["LlamaForCausalLM"], **NONE)
    assert found["mixture_of_experts"] is False
    assert "experts" not in found


def test_packed_weights_are_not_counted(tmp_path: Path) -> None:
    found = facts(tmp_path / "m", quantization_config={"quant_method": "mxfp4"})
    assert found["packed"] is True
    assert "parameters" not in found


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": None}, "architectures must name"),
        ({"architectures": []}, "architectures must name"),
        ({"architectures": [7]}, "architectures must name"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": "1"}, "num_hidden_layers must be an integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be an integer"),
        ({"vocab_size": -1}, "vocab_size must be an integer"),
        ({"vocab_size": 10**12}, "vocab_size must be an integer"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5, which does not fit 4 experts"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok is 0"),
        ({"text_config": []}, "text_config must be an object"),
    ],
)
def test_a_configuration_that_cannot_be(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid) as caught:
        facts(tmp_path / "m", **config)
    assert caught.value.message.startswith(f"config.json: {says}")
