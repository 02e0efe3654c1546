"""Shapes that come with the project, and those read from a disk."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from gigpo_lightning.memory import ModelShape, known_shapes, shape_of

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}

# As their cards on the hub count them.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
}


def test_every_shape_that_comes_along_has_its_model_s_number_of_parameters() -> None:
    assert {name: shape.num_parameters for name, shape in known_shapes().items()} == PUBLISHED


def test_every_model_of_the_hub_that_a_configuration_names_comes_along() -> None:
    named = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        model = yaml.safe_load(path.read_text()).get("model") or {}
        named.add(model.get("init_args", {}).get("policy", {}).get("init_args", {}).get("model", ""))
    hub = {name for name in named if name.count("/") == 1 and not name.startswith("runs/")}
    assert len(hub) == 4
    assert hub <= known_shapes().keys()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_as_transformers_makes_them(kind: str, tied: bool) -> None:
    config = AutoConfig.for_model(kind, **SMALL, num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert ModelShape.from_config(config.to_dict()).num_parameters == sum(each.numel() for each in model.parameters())


def test_a_folder_s_config_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"model_type": "llama", "tie_word_embeddings": True}))
    shape = shape_of(str(tmp_path))
    assert shape is not None
    assert (shape.hidden_size, shape.head_dim, shape.num_key_value_heads) == (48, 12, 4)


def test_a_model_that_is_not_here_has_no_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert shape_of("nobody/knows-it") is None
    assert shape_of(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_embd": 768}, "has no vocab_size and no hidden_size"),
        (SMALL | {"num_experts": 64}, "a mixture of experts (num_experts 64) cannot be summed up"),
    ],
)
def test_a_model_of_another_form_is_refused(config: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelShape.from_config(config)
