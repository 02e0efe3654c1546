"""The largest moment of a step against a tracker of every tensor, at real widths: nothing is computed or allocated."""

from typing import Any

import pytest

from gigpo_lightning.memory import GIB, ModelShape, Training, moments, states
from tests.memory.tracked import peak_of_a_step

QWEN2: dict[str, Any] = {
    **{"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960},
    **{"num_hidden_layers": 3, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
}
QWEN3: dict[str, Any] = QWEN2 | {
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
UNTIED = QWEN2 | {"tie_word_embeddings": False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (QWEN2, {"passes": 2}),
        (UNTIED, {"weight_type": "bfloat16"}),
        (QWEN3, {}),
        (QWEN2, {"checkpointing": False}),
        (QWEN2, {"autocast": False}),
        (QWEN2, {"lora_rank": 32}),
        (QWEN2, {"lora_rank": 32, "weight_type": "bfloat16"}),
    ],
)
def test_a_step_takes_what_its_tensors_take_within_a_tenth(sizes: dict[str, Any], options: dict[str, Any]) -> None:
    tracked = peak_of_a_step(sizes, tokens=16384, **options)
    shape = ModelShape.from_config(sizes)
    training = Training(
        precision="bf16-mixed" if options.get("autocast", True) else "32-true",
        weight_type=options.get("weight_type", "float32"),
        micro_batch_tokens=16384,
        lora_rank=options.get("lora_rank", 0),
        gradient_checkpointing=options.get("checkpointing", True),
    )
    step = [each for each in moments(shape, training) if each.name != "optimizer"]
    first = max(each.live + each.gradients for each in step)
    later = max(each.live for each in step) + states(shape, training)["gradients"] * GIB  # beside all gradients
    assert (later if options.get("passes") else first) == pytest.approx(tracked, rel=0.1)
